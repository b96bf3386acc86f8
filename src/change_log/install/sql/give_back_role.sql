DO $oar_tiles$
DECLARE
    one  text;
BEGIN
    FOREACH one IN ARRAY current_setting('oar_tiles.borrowed')::text[] LOOP
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = one) THEN
            EXECUTE format('REVOKE %I FROM %I', one, current_user);
        END IF;
    END LOOP;
END
$oar_tiles$;
