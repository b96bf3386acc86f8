-- The stored tables that the view $1 reads, and the columns of each. Tables that it reads through other views, or through functions whose bodies the
-- catalog knows, are included. The catalog records no column for a reference to a whole row, so a rule with such a reference counts as reading all
-- columns.
WITH RECURSIVE part (class, object) AS (
    SELECT 'pg_rewrite'::regclass::oid, r.oid FROM pg_rewrite AS r WHERE r.ev_class = $1::text::regclass
    UNION
    SELECT next.class, next.object
    FROM part
    JOIN pg_depend AS d ON d.classid = part.class AND d.objid = part.object
    CROSS JOIN LATERAL (
        SELECT 'pg_rewrite'::regclass::oid, r.oid
        FROM pg_rewrite AS r JOIN pg_class AS c ON c.oid = r.ev_class AND c.relkind = 'v'
        WHERE d.refclassid = 'pg_class'::regclass AND r.ev_class = d.refobjid
        UNION ALL
        SELECT d.refclassid, d.refobjid WHERE d.refclassid = 'pg_proc'::regclass
    ) AS next (class, object)
),
reference AS (
    SELECT d.refobjid AS relation, d.refobjsubid AS attnum,
        part.class = 'pg_proc'::regclass
            OR (SELECT r.ev_action::text LIKE '%:varattno 0 %' FROM pg_rewrite AS r WHERE r.oid = part.object) AS whole
    FROM part
    JOIN pg_depend AS d ON d.classid = part.class AND d.objid = part.object AND d.refclassid = 'pg_class'::regclass
)
SELECT c.oid, {called}, c.relkind::text,
    ARRAY(
        SELECT a.attname::text FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          -- A virtual generated column changes with other columns.
          AND (a.attnum = ANY (array_agg(reference.attnum)) OR bool_or(reference.whole) OR EXISTS (
              SELECT FROM pg_attribute AS g
              WHERE g.attrelid = c.oid AND g.attnum = ANY (array_agg(reference.attnum)) AND g.attgenerated = 'v'))
        ORDER BY a.attnum)
FROM reference
JOIN pg_class AS c ON c.oid = reference.relation AND c.relkind IN ('r', 'p', 'm', 'f')
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
GROUP BY c.oid, n.nspname, c.relname, c.relkind
ORDER BY 2
