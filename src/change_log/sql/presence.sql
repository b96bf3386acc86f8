-- Whether there is a log in the schema $1, and whether this role may read it. Reads only the catalog, so it cannot fail. The log's tables must be
-- tables, because views would run functions of their owners.
SELECT coalesce(obj_description(state.oid, 'pg_class') = 'oar-tiles change log', false)
        AND (SELECT count(*) FROM pg_class AS c
            WHERE c.relnamespace = n.oid AND c.relkind = 'r' AND c.relname IN ({tables})) = {count} AS is_ours,
    EXISTS (SELECT FROM pg_class AS c WHERE c.relnamespace = n.oid) AS has_tables,
    coalesce(has_schema_privilege(n.oid, 'USAGE') AND (
        SELECT bool_and(has_table_privilege(c.oid, 'SELECT'))
        FROM pg_class AS c WHERE c.relnamespace = n.oid AND c.relkind = 'r'), false) AS is_readable,
    quote_ident(current_user) AS role
FROM (SELECT) AS one
LEFT JOIN pg_namespace AS n ON n.nspname = $1
LEFT JOIN pg_class AS state ON state.relnamespace = n.oid AND state.relname = 'state' AND state.relkind = 'r'
