BEGIN READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '10s';   -- who waits for a table holds up everybody behind
SET LOCAL statement_timeout = 0;
SELECT format('%s: triggers removed', name) FROM {schema}.member GROUP BY name ORDER BY name;
-- The triggers go with their functions.
DO $oar_tiles$
DECLARE
    noter regprocedure;
BEGIN
    IF obj_description(to_regclass({schema_state}), 'pg_class') IS DISTINCT FROM 'oar-tiles change log' THEN
        RAISE EXCEPTION 'there is no change log in this schema';
    END IF;
    FOR noter IN SELECT w.noter FROM {schema}.watch AS w JOIN pg_proc AS p ON p.oid = w.noter LOOP
        EXECUTE format('DROP FUNCTION %s CASCADE', noter);
    END LOOP;
END
$oar_tiles$;
DROP TABLE {schema}.change, {schema}.needs, {schema}.member, {schema}.watched, {schema}.watch, {schema}.state;
DROP SCHEMA {schema};
COMMIT;
