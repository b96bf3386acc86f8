-- The rights that the trigger functions of the log in the schema {name} need, one row for each role and object: whether the role has the right,
-- whether it was granted to the role itself, whether this session may grant it, the statement that grants it, and what is wrong if it is missing.
WITH noter AS (
    SELECT DISTINCT p.proowner AS role, '"' || replace(r.rolname, '"', '""') || '"' AS called, lower(p.prosrc) AS text
    FROM pg_namespace AS n JOIN pg_proc AS p ON p.pronamespace = n.oid JOIN pg_roles AS r ON r.oid = p.proowner
    WHERE n.nspname = {name} AND p.proname ~ '^note_[0-9]+$' AND p.pronargs = 0 AND p.prorettype = 'trigger'::regtype
),
keeper AS (SELECT DISTINCT role, called FROM noter),
postgis AS (SELECT e.oid, e.extnamespace FROM pg_extension AS e WHERE e.extname = 'postgis'),
-- The functions that the text names, and the functions of its casts and operators. PostGIS 3.5 has an operator <>, as which the planner runs NOT (a = b).
named AS (
    SELECT role, called, list.names[1] AS function
    FROM noter CROSS JOIN LATERAL regexp_matches(text, '[.]([a-z0-9_]+)[(]', 'g') AS list (names)
    UNION
    SELECT role, called, hidden.function
    FROM noter JOIN (VALUES ('geometry', '[.]geometry[^a-z]'), ('geometry_eq', '[.]=[)]'), ('geometry_neq', '[.]=[)]'), ('box3d', '[.]st_[xy]m(in|ax)[(]')) AS hidden (function, sign)
        ON text ~ hidden.sign
),
needed AS (
    SELECT role, called, 'EXECUTE' AS privilege, p.oid::regprocedure::text AS object, 'FUNCTION ' || p.oid::regprocedure AS target,
        has_function_privilege(role, p.oid, 'EXECUTE') AS is_held,
        p.proowner = role OR EXISTS (SELECT FROM aclexplode(p.proacl) AS a WHERE a.grantee = role) AS is_own,
        has_function_privilege(p.oid, 'EXECUTE WITH GRANT OPTION') AS is_grantable
    FROM named JOIN pg_proc AS p ON p.proname = named.function AND p.prokind = 'f'
    JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    JOIN postgis ON postgis.oid = d.refobjid
    UNION ALL
    SELECT role, called, 'USAGE', 'the schema ' || q.schema, 'SCHEMA ' || q.schema, has_schema_privilege(role, n.oid, 'USAGE'),
        n.nspowner = role OR EXISTS (SELECT FROM aclexplode(n.nspacl) AS a WHERE a.grantee = role AND a.privilege_type = 'USAGE'),
        has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION')
    FROM keeper CROSS JOIN pg_namespace AS n CROSS JOIN LATERAL (SELECT '"' || replace(n.nspname, '"', '""') || '"' AS schema) AS q
    WHERE n.nspname = {name} OR n.oid IN (SELECT postgis.extnamespace FROM postgis)
    UNION ALL
    SELECT role, called, 'SELECT', {quoted} || '."watch"', {quoted} || '."watch"', has_table_privilege(role, c.oid, 'SELECT'),
        c.relowner = role OR EXISTS (SELECT FROM aclexplode(c.relacl) AS a WHERE a.grantee = role AND a.privilege_type = 'SELECT'),
        has_table_privilege(c.oid, 'SELECT WITH GRANT OPTION')
    FROM keeper CROSS JOIN pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'watch'
    WHERE n.nspname = {name}
    UNION ALL
    -- Without "xid" and "at", whose defaults are the transaction and the time.
    SELECT role, called, format('INSERT (%s)', string_agg(quote_ident(t.attname), ', ' ORDER BY t.attnum)), {quoted} || '."change"', {quoted} || '."change"',
        bool_and(has_column_privilege(role, c.oid, t.attnum, 'INSERT')),
        c.relowner = role OR bool_and(EXISTS (SELECT FROM aclexplode(t.attacl) AS a WHERE a.grantee = role AND a.privilege_type = 'INSERT')),
        bool_and(has_column_privilege(c.oid, t.attnum, 'INSERT WITH GRANT OPTION'))
    FROM keeper CROSS JOIN pg_namespace AS n JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = 'change'
    JOIN pg_attribute AS t ON t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped AND t.attname NOT IN ('xid', 'at')
    WHERE n.nspname = {name}
    GROUP BY role, called, c.oid, c.relowner
)
SELECT is_held, is_own, is_grantable, format('GRANT %s ON %s TO %s', privilege, target, called) AS grant_statement,
    format('the role %s lacks %s on %s: GRANT %s ON %s TO %s', called, privilege, object, privilege, target, called) AS what
FROM needed
