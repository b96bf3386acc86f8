{begin}
DO $oar_tiles$
BEGIN
    IF obj_description(to_regclass({schema_state}), 'pg_class') IS DISTINCT FROM 'oar-tiles change log' THEN
        RAISE EXCEPTION 'there is no change log in this schema';
    END IF;
END
$oar_tiles$;
{guard}
{lock}
{borrow}
SELECT format('%s: triggers removed', name) FROM {schema}.member GROUP BY name ORDER BY name;
DO $oar_tiles$
DECLARE
    noter    regprocedure;
    owner    text := (SELECT to_jsonb(s) ->> 'owner' FROM {schema}.state AS s);    -- a log of layout 1 has none
    is_made  boolean := (SELECT coalesce((to_jsonb(s) ->> 'owner_is_made')::boolean, false) FROM {schema}.state AS s);
    one      record;
BEGIN
    -- Dropping the functions drops the triggers.
    FOR noter IN SELECT w.noter FROM {schema}.watch AS w JOIN pg_proc AS p ON p.oid = w.noter LOOP
        EXECUTE format('DROP FUNCTION %s CASCADE', noter);
    END LOOP;
    IF is_made AND EXISTS (SELECT FROM pg_roles WHERE rolname = owner) THEN
        EXECUTE format('DROP OWNED BY %I', owner);
        BEGIN
            EXECUTE format('DROP ROLE %I', owner);
            PERFORM set_config('oar_tiles.step', format('role %I: removed', owner), true);
        EXCEPTION WHEN dependent_objects_still_exist THEN
            -- A copy of this database, for example.
            PERFORM set_config('oar_tiles.step', format('role %I: stays, another database needs it', owner), true);
        END;
    ELSIF NOT is_made THEN
        FOR one IN
            SELECT DISTINCT c.oid::regclass AS called
            FROM {schema}.member AS m JOIN pg_class AS c ON c.oid = m.relation JOIN pg_roles AS r ON r.rolname = owner AND r.oid <> c.relowner
        LOOP
            EXECUTE format('REVOKE SELECT ON %s FROM %I', one.called, owner);
        END LOOP;
        FOR one IN {given} LOOP
            EXECUTE format('REVOKE ALL ON %s FROM %I', one.object, owner);
        END LOOP;
    END IF;
END
$oar_tiles$;
SELECT step FROM current_setting('oar_tiles.step', true) AS step WHERE step <> '';
{give_back}
DROP TABLE {schema}.change, {schema}.needs, {schema}.member, {schema}.watched, {schema}.watch, {schema}.state;
DROP SCHEMA {schema};
COMMIT;
