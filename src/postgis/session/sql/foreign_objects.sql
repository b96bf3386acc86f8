-- Finds functions, operators, types and tables in the schemas $1 of a search path that PostgreSQL could use instead of those of PostGIS with the same
-- name, or instead of its own if their schema stands before pg_catalog. Objects of a superuser, this role or the owner of PostGIS are left out, and
-- so are members of extensions of such owners. If pg_catalog has the name, too, an object can shadow that of PostGIS only if it takes a type of
-- PostGIS or a pseudo-type. The statement runs with pg_catalog alone on the search path, so that all names in its answer have their schema.
{searched},
member AS (
    SELECT d.classid, d.objid FROM pg_depend AS d JOIN postgis AS p ON p.oid = d.refobjid
    WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
),
spatial AS (
    SELECT array_agg(t.oid) AS types FROM pg_type AS t
    WHERE t.typtype = 'p' OR EXISTS (
        SELECT FROM member AS m WHERE m.classid = 'pg_type'::regclass AND m.objid IN (t.oid, t.typelem))
),
member_name AS (
    SELECT 'function' AS kind, p.proname AS name FROM pg_proc AS p
    JOIN member AS m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
    UNION
    SELECT 'operator', o.oprname FROM pg_operator AS o
    JOIN member AS m ON m.classid = 'pg_operator'::regclass AND m.objid = o.oid
    UNION
    SELECT unnest(ARRAY['type', 'table']), t.typname FROM pg_type AS t
    JOIN member AS m ON m.classid = 'pg_type'::regclass AND m.objid = t.oid
    UNION
    SELECT 'table', c.relname FROM pg_class AS c
    JOIN member AS m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
),
candidate AS (
    SELECT 'function' AS kind, p.proname AS name, p.proowner AS owner, p.pronamespace AS place, 'pg_proc'::regclass AS class, p.oid AS object,
        p.proargtypes::oid[] && (SELECT types FROM spatial) AS is_spatial
    FROM pg_proc AS p
    UNION ALL
    SELECT 'operator', o.oprname, o.oprowner, o.oprnamespace, 'pg_operator'::regclass, o.oid,
        ARRAY[o.oprleft, o.oprright] && (SELECT types FROM spatial)
    FROM pg_operator AS o
    UNION ALL
    SELECT 'type', t.typname, t.typowner, t.typnamespace, 'pg_type'::regclass, t.oid, true
    FROM pg_type AS t
    WHERE t.typrelid = 0 OR EXISTS (SELECT FROM pg_class AS c WHERE c.oid = t.typrelid AND c.relkind = 'c')
    UNION ALL
    SELECT 'table', c.relname, c.relowner, c.relnamespace, 'pg_class'::regclass, c.oid, true
    FROM pg_class AS c
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
),
builtin AS (
    SELECT DISTINCT c.kind, c.name FROM candidate AS c WHERE c.place = 'pg_catalog'::regnamespace
),
found AS (
    SELECT c.kind, c.object, s.nspname AS schema, c.owner
    FROM candidate AS c JOIN place AS s ON s.oid = c.place
    WHERE c.owner NOT IN (SELECT t.oid FROM trusted AS t)
      AND (s.is_before AND EXISTS (SELECT FROM builtin AS b WHERE (b.kind, b.name) = (c.kind, c.name))
          OR EXISTS (SELECT FROM member_name AS m WHERE (m.kind, m.name) = (c.kind, c.name))
              AND (c.is_spatial OR NOT EXISTS (SELECT FROM builtin AS b WHERE (b.kind, b.name) = (c.kind, c.name))))
      AND NOT EXISTS (
          SELECT FROM pg_depend AS d JOIN pg_extension AS e ON e.oid = d.refobjid
          WHERE d.classid = c.class AND d.objid = c.object AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
            AND e.extowner IN (SELECT t.oid FROM trusted AS t))
)
SELECT f.kind, CASE f.kind
        WHEN 'function' THEN f.object::regprocedure::text
        WHEN 'operator' THEN f.object::regoperator::text
        WHEN 'type' THEN f.object::regtype::text
        ELSE f.object::regclass::text
    END AS called, f.schema::text, pg_get_userbyid(f.owner)::text, current_user::text
FROM found AS f ORDER BY f.kind, called
