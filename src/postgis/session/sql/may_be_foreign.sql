-- True if the schemas $1 of a search path may hold what foreign_objects.sql looks for: an object with a name of PostGIS that does not belong to a
-- superuser, this role or the owner of PostGIS, or a schema before pg_catalog. Nearly always false, and found without reading all members of PostGIS.
{searched}
SELECT EXISTS (SELECT FROM place AS s WHERE s.is_before)
    OR EXISTS (
        SELECT FROM pg_proc AS c
        WHERE c.pronamespace IN (SELECT s.oid FROM place AS s) AND c.proowner NOT IN (SELECT t.oid FROM trusted AS t)
          AND EXISTS (
            SELECT FROM pg_proc AS named JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = named.oid
            WHERE named.proname = c.proname AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
              AND d.refobjid IN (SELECT p.oid FROM postgis AS p)))
    OR EXISTS (
        SELECT FROM pg_operator AS c
        WHERE c.oprnamespace IN (SELECT s.oid FROM place AS s) AND c.oprowner NOT IN (SELECT t.oid FROM trusted AS t))
    OR EXISTS (
        SELECT FROM pg_type AS c
        WHERE c.typnamespace IN (SELECT s.oid FROM place AS s) AND c.typowner NOT IN (SELECT t.oid FROM trusted AS t)
          AND EXISTS (
            SELECT FROM pg_type AS named JOIN pg_depend AS d ON d.classid = 'pg_type'::regclass AND d.objid = named.oid
            WHERE named.typname = c.typname AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
              AND d.refobjid IN (SELECT p.oid FROM postgis AS p)))
    OR EXISTS (
        SELECT FROM pg_class AS c
        WHERE c.relnamespace IN (SELECT s.oid FROM place AS s) AND c.relowner NOT IN (SELECT t.oid FROM trusted AS t)
          AND EXISTS (
            SELECT FROM pg_class AS named JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = named.oid
            WHERE named.relname = c.relname AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
              AND d.refobjid IN (SELECT p.oid FROM postgis AS p)))
