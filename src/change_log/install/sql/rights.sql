-- Each function gets its owner, and the owner gets the rights that the function needs: to append to the log and, for TRUNCATE, to read the tables.
DO $oar_tiles$
DECLARE
    chosen  text := {chosen};    -- NULL: the owner of each table
    log     text := {quoted};
    former  record;
    one     record;
    other   record;
BEGIN
    IF chosen IS NOT NULL AND NOT EXISTS (SELECT FROM pg_roles WHERE rolname = chosen) THEN
        RAISE EXCEPTION 'there is no role %', quote_ident(chosen) USING ERRCODE = '{unsafe}';
    END IF;
    FOR one IN
        SELECT w.id, p.oid AS noter, p.oid::regprocedure AS called, p.proowner, p.proacl, p.xmin = w.noter_xmin AS is_ours,
            o.oid AS owner, o.rolname AS owner_name
        FROM {schema}.watch AS w
        JOIN pg_proc AS p ON p.oid = w.noter
        JOIN pg_class AS t ON t.oid = w.relation
        JOIN pg_roles AS o ON CASE WHEN chosen IS NULL THEN o.oid = t.relowner ELSE o.rolname = chosen END
        ORDER BY w.id
    LOOP
        FOR other IN
            SELECT DISTINCT a.grantee FROM aclexplode(coalesce(one.proacl, acldefault('f', one.proowner))) AS a
            WHERE a.grantee <> one.proowner
        LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', one.called,
                CASE other.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(other.grantee)) END);
        END LOOP;
        IF one.proowner <> one.owner THEN
            -- Unless a superuser runs this, only a role that may create functions in the schema can become the owner of one.
            IF has_schema_privilege(one.owner, {name}, 'CREATE') THEN
                EXECUTE format('ALTER FUNCTION %s OWNER TO %I', one.called, one.owner_name);
            ELSE
                EXECUTE format('GRANT CREATE ON SCHEMA %s TO %I', log, one.owner_name);
                EXECUTE format('ALTER FUNCTION %s OWNER TO %I', one.called, one.owner_name);
                EXECUTE format('REVOKE CREATE ON SCHEMA %s FROM %I', log, one.owner_name);
            END IF;
        END IF;
        FOR other IN
            SELECT c.oid, c.oid::regclass AS called, n.oid AS schema, n.nspname
            FROM {schema}.member AS m JOIN pg_class AS c ON c.oid = m.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE m.watch = one.id
        LOOP
            BEGIN
                IF NOT has_schema_privilege(one.owner, other.schema, 'USAGE') THEN
                    EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', other.nspname, one.owner_name);
                END IF;
                IF NOT has_table_privilege(one.owner, other.oid, 'SELECT') THEN
                    EXECUTE format('GRANT SELECT ON %s TO %I', other.called, one.owner_name);
                END IF;
            EXCEPTION WHEN insufficient_privilege THEN
                RAISE NOTICE 'the role %s may not read %s: a TRUNCATE of it will take a full seed', one.owner_name, other.called;
            END;
        END LOOP;
        IF one.is_ours THEN
            UPDATE {schema}.watch AS w SET noter_xmin = p.xmin FROM pg_proc AS p
            WHERE w.id = one.id AND p.oid = one.noter AND w.noter_xmin <> p.xmin;
        END IF;
    END LOOP;
    -- Former owners of functions lose the right to append. Present owners lose the right to set an entry's transaction and time, which are defaults.
    FOR other IN
        SELECT a.grantee FROM pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
        WHERE c.oid = (log || '.change')::regclass AND a.privilege_type = 'INSERT' AND a.grantee <> c.relowner
        UNION
        SELECT a.grantee FROM pg_attribute AS t CROSS JOIN LATERAL aclexplode(t.attacl) AS a
        WHERE t.attrelid = (log || '.change')::regclass AND a.privilege_type = 'INSERT' AND (t.attname IN ('xid', 'at') OR a.grantee NOT IN (
            SELECT p.proowner FROM {schema}.watch AS w JOIN pg_proc AS p ON p.oid = w.noter))
    LOOP
        EXECUTE format('REVOKE INSERT ON %s.change FROM %I', log, pg_get_userbyid(other.grantee));
    END LOOP;
    -- Rights are granted to each role itself, because a right that it has through PUBLIC may be revoked from PUBLIC.
    FOR other IN SELECT needed.* FROM (
{needed}
    ) AS needed WHERE NOT needed.is_own AND needed.is_grantable LOOP
        EXECUTE other.grant_statement;
    END LOOP;
    SELECT s.owner, s.owner_is_made INTO former FROM {schema}.state AS s;
    IF former.owner IS DISTINCT FROM chosen AND EXISTS (SELECT FROM pg_roles WHERE rolname = former.owner) THEN
        IF former.owner_is_made THEN
            EXECUTE format('DROP OWNED BY %I', former.owner);
            BEGIN
                EXECUTE format('DROP ROLE %I', former.owner);
            EXCEPTION WHEN dependent_objects_still_exist THEN
                RAISE NOTICE 'the role % stays: another database needs it', former.owner;
            END;
        ELSE
            FOR other IN
                SELECT format('TABLE %s', c.oid::regclass) AS object, c.relowner AS owner
                FROM pg_class AS c
                WHERE c.oid = (log || '.watch')::regclass OR c.oid IN (SELECT m.relation FROM {schema}.member AS m)
                UNION ALL
                SELECT format('SCHEMA %s', log), n.nspowner FROM pg_namespace AS n WHERE n.nspname = {name}
            LOOP
                CONTINUE WHEN pg_get_userbyid(other.owner) = former.owner;
                EXECUTE format('REVOKE ALL ON %s FROM %I', other.object, former.owner);
            END LOOP;
            FOR other IN {given} LOOP
                EXECUTE format('REVOKE ALL ON %s FROM %I', other.object, former.owner);
            END LOOP;
        END IF;
    END IF;
    UPDATE {schema}.state AS s SET owner = chosen, owner_is_made = {is_made}
    WHERE (s.owner, s.owner_is_made) IS DISTINCT FROM (chosen, {is_made});
END
$oar_tiles$;
