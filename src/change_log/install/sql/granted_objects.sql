
            -- The objects in PostGIS's schema on which an install granted rights to a role that owns no table, and so exists only for the triggers.
            SELECT format('FUNCTION %s', p.oid::regprocedure) AS object
            FROM pg_roles AS r, pg_extension AS e
            JOIN pg_depend AS d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_proc'::regclass
            JOIN pg_proc AS p ON p.oid = d.objid
            WHERE e.extname = 'postgis' AND r.rolname = {role} AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relowner = r.oid)
              AND EXISTS (SELECT FROM aclexplode(p.proacl) AS a WHERE a.grantee = r.oid)
              AND has_function_privilege(p.oid, 'EXECUTE WITH GRANT OPTION')
            UNION ALL
            SELECT format('SCHEMA %I', n.nspname)
            FROM pg_roles AS r, pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
            WHERE e.extname = 'postgis' AND r.rolname = {role} AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.relowner = r.oid)
              AND EXISTS (SELECT FROM aclexplode(n.nspacl) AS a WHERE a.grantee = r.oid)
              AND has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION')
