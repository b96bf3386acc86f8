-- Takes back the rights on the tables that ALTER DEFAULT PRIVILEGES gave to other roles, except for reading.
DO $oar_tiles$
DECLARE
    one  record;
BEGIN
    FOR one IN
        SELECT c.oid::regclass AS called, a.grantee, a.privilege_type
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE n.nspname = {name} AND c.relkind = 'r' AND a.grantee <> c.relowner AND a.privilege_type <> 'SELECT'
    LOOP
        EXECUTE format('REVOKE %s ON TABLE %s FROM %s', one.privilege_type, one.called,
            CASE one.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(one.grantee)) END);
    END LOOP;
END
$oar_tiles$;
