-- The extension PostGIS, the roles whose objects are trusted in addition to PostgreSQL's own, and the schemas $1 of a search path.
WITH postgis AS (
    SELECT e.oid, e.extowner FROM pg_extension AS e WHERE e.extname = 'postgis'
),
trusted AS (
    SELECT r.oid FROM pg_roles AS r WHERE r.rolsuper OR r.rolname = current_user
    UNION
    SELECT p.extowner FROM postgis AS p
),
place AS (
    SELECT n.oid, n.nspname, s.rank < coalesce(array_position($1, 'pg_catalog'), 0) AS is_before
    FROM unnest($1) WITH ORDINALITY AS s (name, rank) JOIN pg_namespace AS n ON n.nspname = s.name
    WHERE n.nspname <> 'pg_catalog'
)
