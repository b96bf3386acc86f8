-- Altering another role's functions, or making it the owner of functions, requires membership in the role. The membership ends with this transaction.
DO $oar_tiles$
DECLARE
    needed    text := CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
    borrowed  text[] := '{}';
    one       text;
BEGIN
    FOR one IN
        SELECT r.rolname FROM pg_roles AS r
        WHERE r.rolname = {chosen}::text OR r.oid IN (
            SELECT p.proowner FROM {schema}.watch AS w JOIN pg_proc AS p ON p.oid = w.noter)
    LOOP
        IF NOT pg_has_role(one, needed) THEN
            EXECUTE format('GRANT %I TO %I', one, current_user);
            borrowed := borrowed || one;
        END IF;
    END LOOP;
    PERFORM set_config('oar_tiles.borrowed', borrowed::text, true);
END
$oar_tiles$;
