-- The stored tables that the view $1 (its OID) reads, directly or through other views, one JSON object each: the geometry columns that the view
-- reads, the primary key, and the foreign keys that lead from the table to another table of the view.
WITH RECURSIVE part (rule) AS (
    SELECT r.oid FROM pg_rewrite AS r WHERE r.ev_class = $1
    UNION
    SELECT r.oid
    FROM part
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = part.rule AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind = 'v'
    JOIN pg_rewrite AS r ON r.ev_class = c.oid
),
base AS (
    SELECT d.refobjid AS relation, array_agg(DISTINCT d.refobjsubid) AS columns
    FROM part
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = part.rule AND d.refclassid = 'pg_class'::regclass
    JOIN pg_class AS c ON c.oid = d.refobjid AND c.relkind IN ('r', 'p', 'm', 'f')
    GROUP BY d.refobjid
)
SELECT json_build_object(
    'schema', n.nspname,
    'name', c.relname,
    'kind', c.relkind,
    'geometries', (
        SELECT COALESCE(json_agg(json_build_object(
            'column', a.attname, 'is_geography', t.typname = 'geography', 'srid', postgis_typmod_srid(a.atttypmod)) ORDER BY a.attnum), '[]'::json)
        FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid AND t.typname IN ('geometry', 'geography')
        WHERE a.attrelid = c.oid AND (a.attnum = ANY (base.columns) OR base.columns = '{0}') AND NOT a.attisdropped
    ),
    'key', (
        SELECT COALESCE(json_agg(a.attname ORDER BY k.place), '[]'::json)
        FROM pg_index AS i
        CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts
    ),
    'links', (
        SELECT COALESCE(json_agg(json_build_object(
            'to_schema', tn.nspname, 'to_name', target.relname,
            'pairs', (
                SELECT json_agg(json_build_object('own', own.attname, 'other', other.attname) ORDER BY k.place)
                FROM unnest(f.conkey, f.confkey) WITH ORDINALITY AS k (own, other, place)
                JOIN pg_attribute AS own ON own.attrelid = f.conrelid AND own.attnum = k.own
                JOIN pg_attribute AS other ON other.attrelid = f.confrelid AND other.attnum = k.other)
        ) ORDER BY f.oid), '[]'::json)
        FROM pg_constraint AS f
        JOIN base AS also ON also.relation = f.confrelid
        JOIN pg_class AS target ON target.oid = f.confrelid
        JOIN pg_namespace AS tn ON tn.oid = target.relnamespace
        WHERE f.contype = 'f' AND f.conrelid = c.oid AND f.confrelid <> c.oid AND f.conparentid = 0
    )
)::text
FROM base
JOIN pg_class AS c ON c.oid = base.relation
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
ORDER BY n.nspname, c.relname
