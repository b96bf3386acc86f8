-- If the schema exists already, the role needs no right to create one.
DO $oar_tiles$
DECLARE
    one  record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {name}) THEN
        CREATE SCHEMA {schema};
        -- Takes back the rights that ALTER DEFAULT PRIVILEGES gave to other roles, except for reading.
        FOR one IN
            SELECT a.grantee FROM pg_namespace AS n CROSS JOIN LATERAL aclexplode(n.nspacl) AS a
            WHERE n.nspname = {name} AND a.grantee <> n.nspowner AND a.privilege_type = 'CREATE'
        LOOP
            EXECUTE format('REVOKE CREATE ON SCHEMA %s FROM %s', {quoted},
                CASE one.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(one.grantee)) END);
        END LOOP;
    END IF;
END
$oar_tiles$;
