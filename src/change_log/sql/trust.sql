-- Finds what is wrong with the schema {name} as the schema of a change log. Only the catalog is read, and no table in the schema. A role that can
-- alter the schema, its tables or its functions can make others run its code: the installing role, the owner of the functions, or a reader. So only
-- superusers and the owner of the schema may alter it, and own objects in it. One row for each finding: what is wrong, and whether another install
-- may repair it.
WITH log AS (
    SELECT n.oid, n.nspacl, n.nspowner,
        EXISTS (SELECT FROM pg_class AS state
            WHERE state.relnamespace = n.oid AND state.relname = 'state' AND state.relkind = 'r'
              AND obj_description(state.oid, 'pg_class') = 'oar-tiles change log') AS is_made
    FROM pg_namespace AS n WHERE n.nspname = {name}
),
who AS (
    SELECT 0::oid AS oid, 'PUBLIC' AS called
    UNION ALL
    SELECT r.oid, '"' || replace(r.rolname, '"', '""') || '"' FROM pg_roles AS r
),
trusted AS (SELECT r.oid FROM pg_roles AS r, log WHERE r.rolsuper OR r.oid = log.nspowner),
-- Superusers, and roles whose members can become one (PostgreSQL documentation, section 22.5, "Predefined Roles").
super AS (
    SELECT r.oid, r.rolname FROM pg_roles AS r
    WHERE r.rolsuper OR r.rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files')
),
part AS (
    SELECT c.oid, c.relname, c.relowner, c.relacl, c.relrowsecurity
    FROM log JOIN pg_class AS c ON c.relnamespace = log.oid
    WHERE log.is_made AND c.relkind = 'r' AND c.relname IN ({tables})
),
noter AS (
    SELECT p.oid, p.proowner, p.oid::regprocedure::text AS called,
        -- A function that belongs to a table's owner can do no more to the table than the owner can.
        EXISTS (SELECT FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
            WHERE t.tgfoid = p.oid AND c.relowner = p.proowner) AS is_of_table
    FROM log JOIN pg_proc AS p ON p.pronamespace = log.oid
    WHERE log.is_made AND p.proname ~ '^note_[0-9]+$' AND p.pronargs = 0 AND p.prorettype = 'trigger'::regtype
),
-- Roles that own trigger functions and no table: they exist only for the triggers.
keeper AS (SELECT DISTINCT r.* FROM noter JOIN pg_roles AS r ON r.oid = noter.proowner WHERE NOT noter.is_of_table),
granted AS (
    SELECT c.relname, a.grantee, a.privilege_type, false AS is_narrow FROM part AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
    UNION
    SELECT c.relname, a.grantee, a.privilege_type, t.attname NOT IN ('xid', 'at')
    FROM part AS c JOIN pg_attribute AS t ON t.attrelid = c.oid CROSS JOIN LATERAL aclexplode(t.attacl) AS a
)
SELECT format('%1$s may make objects in it: REVOKE CREATE ON SCHEMA %2$s FROM %1$s', who.called, {quoted}) AS what, false AS is_mendable
FROM log CROSS JOIN LATERAL aclexplode(log.nspacl) AS a JOIN who ON who.oid = a.grantee
WHERE a.privilege_type = 'CREATE' AND a.grantee NOT IN (SELECT oid FROM trusted)
UNION ALL
-- Every object in a schema depends on the schema; parts of a table depend on the table instead.
SELECT 'it holds ' || pg_describe_object(d.classid, d.objid, 0), false
FROM log JOIN pg_depend AS d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = log.oid
WHERE NOT (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM part))
  AND NOT (d.classid = 'pg_proc'::regclass AND d.objid IN (SELECT oid FROM noter))
  -- Default privileges, which an install revokes, and publications do no harm.
  AND d.classid::regclass::text NOT IN ('pg_default_acl', 'pg_publication_namespace')
  -- A new log needs an empty schema. In the schema of an existing log, objects of superusers and of its owner do no harm.
  AND (NOT log.is_made OR EXISTS (
      SELECT FROM pg_shdepend AS s
      WHERE s.classid = d.classid AND s.objid = d.objid AND s.deptype = 'o' AND s.refclassid = 'pg_authid'::regclass
        AND s.dbid = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
        AND s.refobjid NOT IN (SELECT oid FROM trusted)))
UNION ALL
SELECT format('the table "%s" belongs to %s', part.relname, who.called), false
FROM part JOIN who ON who.oid = part.relowner WHERE part.relowner NOT IN (SELECT oid FROM trusted)
UNION ALL
SELECT 'it has the ' || pg_describe_object(t.classid, t.oid, 0), false
FROM part JOIN (
    SELECT 'pg_trigger'::regclass AS classid, oid, tgrelid AS relation FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'pg_rewrite'::regclass, oid, ev_class FROM pg_rewrite
    UNION ALL SELECT 'pg_policy'::regclass, oid, polrelid FROM pg_policy
    UNION ALL SELECT 'pg_class'::regclass, inhrelid, inhparent FROM pg_inherits
) AS t ON t.relation = part.oid
UNION ALL
SELECT format('the table "%s" has row level security', relname), false FROM part WHERE relrowsecurity
UNION ALL
SELECT format('%1$s may %2$s on the table "%3$s": REVOKE %2$s ON %4$s."%3$s" FROM %1$s', who.called, g.privilege_type, g.relname, {quoted}),
    -- For example the role of functions that were dropped.
    g.relname = 'change' AND g.privilege_type = 'INSERT'
FROM granted AS g JOIN who ON who.oid = g.grantee
WHERE g.grantee NOT IN (SELECT oid FROM trusted)
  -- Readers, the role that prunes, and the trigger functions have these rights.
  AND g.privilege_type NOT IN ('SELECT', 'MAINTAIN')
  AND (g.relname, g.privilege_type) NOT IN (('change', 'DELETE'), ('state', 'UPDATE'))
  -- Anyone who can act as a table's owner could claim that a later transaction made an entry. Nobody can act as the role of an older log.
  AND NOT (g.relname = 'change' AND g.privilege_type = 'INSERT' AND g.grantee IN (SELECT proowner FROM noter WHERE g.is_narrow OR NOT is_of_table))
UNION ALL
SELECT format('the function %s runs as %s, who is a superuser or can become one', noter.called, who.called), true
FROM noter JOIN who ON who.oid = noter.proowner
WHERE EXISTS (SELECT FROM super WHERE pg_has_role(noter.proowner, super.oid, 'MEMBER'))
UNION ALL
SELECT format('the role "%s", as which the triggers run, can do more than they need: it %s', keeper.rolname, more.what), true
FROM keeper CROSS JOIN LATERAL (
    SELECT 'may log in' AS what WHERE keeper.rolcanlogin
    UNION ALL SELECT 'may make roles or databases' WHERE keeper.rolcreaterole OR keeper.rolcreatedb
    UNION ALL SELECT 'may replicate' WHERE keeper.rolreplication
    UNION ALL SELECT 'passes by row level security' WHERE keeper.rolbypassrls
    UNION ALL SELECT 'is a member of ' || pg_get_userbyid(m.roleid) FROM pg_auth_members AS m WHERE m.member = keeper.oid
    UNION ALL
    SELECT 'owns ' || pg_describe_object(s.classid, s.objid, 0)
    FROM pg_shdepend AS s
    WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = keeper.oid AND s.deptype = 'o'
      AND s.dbid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND NOT (s.classid = 'pg_proc'::regclass AND s.objid IN (SELECT oid FROM noter))
    UNION ALL
    SELECT format('may %s on %s', a.privilege_type, c.oid::regclass)
    FROM pg_shdepend AS s JOIN pg_class AS c ON c.oid = s.objid CROSS JOIN LATERAL aclexplode(c.relacl) AS a
    WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = keeper.oid AND s.classid = 'pg_class'::regclass
      AND s.dbid = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND a.grantee = keeper.oid AND a.privilege_type <> 'SELECT' AND c.oid NOT IN (SELECT oid FROM part)
) AS more
WHERE NOT EXISTS (SELECT FROM super WHERE pg_has_role(keeper.oid, super.oid, 'MEMBER'))
