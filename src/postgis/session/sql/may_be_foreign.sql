-- True if the schemas $1 of a search path may hold what foreign_objects.sql looks for: an object with a name of PostGIS that does not belong to a
-- superuser, this role or the owner of PostGIS, or a schema before pg_catalog. Nearly always false. PostgreSQL reads the names of PostGIS's hundreds
-- of members only once it has found an object of another owner in one of these schemas (the functions of the change log are in none): an
-- uncorrelated subquery runs when its value is needed, and CASE keeps that order.
{searched},
member AS NOT MATERIALIZED (
    SELECT d.classid, d.objid FROM pg_depend AS d
    WHERE d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT p.oid FROM postgis AS p) AND d.deptype = 'e'
)
SELECT EXISTS (SELECT FROM place AS s WHERE s.is_before)
    OR EXISTS (
        SELECT FROM pg_proc AS c
        WHERE CASE WHEN c.pronamespace NOT IN (SELECT s.oid FROM place AS s) OR c.proowner IN (SELECT t.oid FROM trusted AS t)
          THEN false ELSE c.proname = ANY (ARRAY(
            SELECT named.proname FROM pg_proc AS named JOIN member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = named.oid)) END)
    OR EXISTS (
        SELECT FROM pg_operator AS c
        WHERE c.oprnamespace IN (SELECT s.oid FROM place AS s) AND c.oprowner NOT IN (SELECT t.oid FROM trusted AS t))
    OR EXISTS (
        SELECT FROM pg_type AS c
        WHERE CASE WHEN c.typnamespace NOT IN (SELECT s.oid FROM place AS s) OR c.typowner IN (SELECT t.oid FROM trusted AS t)
          THEN false ELSE c.typname = ANY (ARRAY(
            SELECT named.typname FROM pg_type AS named JOIN member AS m ON m.classid = 'pg_type'::regclass AND m.objid = named.oid)) END)
    OR EXISTS (
        SELECT FROM pg_class AS c
        WHERE CASE WHEN c.relnamespace NOT IN (SELECT s.oid FROM place AS s) OR c.relowner IN (SELECT t.oid FROM trusted AS t)
          THEN false ELSE c.relname = ANY (ARRAY(
            SELECT named.relname FROM pg_class AS named JOIN member AS m ON m.classid = 'pg_class'::regclass AND m.objid = named.oid)) END)
