SELECT 'ONLY ' || watched.called AS called, 'ACCESS EXCLUSIVE' AS mode FROM (
        SELECT DISTINCT c.oid::regclass::text AS called FROM {schema}.member AS m JOIN pg_class AS c ON c.oid = m.relation ORDER BY 1) AS watched
    UNION ALL
    SELECT format('ONLY %s.%I', {quoted}, t.called), 'ACCESS EXCLUSIVE'
    FROM unnest(ARRAY['change', 'needs', 'member', 'watched', 'watch', 'state']) AS t (called)
