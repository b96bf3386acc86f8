-- Every relation with a column of PostGIS's types geometry or geography, or of a domain over one of them, one JSON object each. Relations of the
-- system or of an extension, temporary tables and partitions (their parent shows their rows) are left out. No table of the change log has such a
-- column.
SELECT json_build_object(
    'oid', c.oid::int8,
    'schema', n.nspname,
    'name', c.relname,
    'kind', c.relkind,
    'role', current_user,
    'is_visible', pg_table_is_visible(c.oid),
    'schema_usable', COALESCE(has_schema_privilege(n.oid, 'USAGE'), false),
    'readable', COALESCE(has_any_column_privilege(c.oid, 'SELECT'), false),
    -- The last estimate of ANALYZE. A table that was never analyzed has -1; before PostgreSQL 14, it has 0.
    'estimated_rows', CASE
        WHEN c.relkind = 'p' THEN (
            SELECT sum(greatest(leaf.reltuples, 0)) FROM pg_partition_tree(c.oid) AS tree JOIN pg_class AS leaf ON leaf.oid = tree.relid
            WHERE tree.isleaf)
        WHEN c.relkind IN ('r', 'm') AND c.reltuples > 0 THEN c.reltuples
    END,
    'bytes', CASE
        WHEN c.relkind = 'p' THEN (
            SELECT sum(pg_relation_size(tree.relid)) FROM pg_partition_tree(c.oid) AS tree JOIN pg_class AS leaf ON leaf.oid = tree.relid
            WHERE tree.isleaf AND leaf.relkind = 'r')
        WHEN c.relkind IN ('r', 'm') THEN pg_relation_size(c.oid)
    END,
    'is_populated', c.relkind <> 'm' OR c.relispopulated,
    'columns', (
        SELECT json_agg(json_build_object(
            'name', a.attname,
            -- For a domain, its base type.
            'base', base.typname,
            'called', format_type(a.atttypid, a.atttypmod),
            'category', base.typcategory,
            'is_enum', base.typtype = 'e',
            'is_composite', base.typtype = 'c',
            'not_null', a.attnotnull,
            'readable', COALESCE(has_column_privilege(a.attrelid, a.attnum, 'SELECT'), false),
            'is_spatial', base.typname IN ('geometry', 'geography'),
            'srid', CASE WHEN base.typname IN ('geometry', 'geography') THEN postgis_typmod_srid(modifier) ELSE 0 END,
            'shape', CASE WHEN base.typname IN ('geometry', 'geography') THEN postgis_typmod_type(modifier) ELSE '' END
        ) ORDER BY a.attnum)
        FROM pg_attribute AS a
        JOIN pg_type AS t ON t.oid = a.atttypid
        JOIN pg_type AS base ON base.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
        CROSS JOIN LATERAL (SELECT CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END AS modifier) AS declared
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ),
    -- Indexes that are unique over all rows at all times: the primary key first, then those with the fewest columns.
    'keys', (
        SELECT COALESCE(json_agg(json_build_object('columns', key.columns)
            ORDER BY key.is_primary DESC, cardinality(key.columns), key.oid), '[]'::json)
        FROM (
            SELECT i.indexrelid AS oid, i.indisprimary AS is_primary, ARRAY(
                SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
                JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                WHERE k.place <= i.indnkeyatts ORDER BY k.place) AS columns
            FROM pg_index AS i
            WHERE i.indrelid = c.oid AND i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
              -- A table with children also shows the rows of these, and none of its own indexes covers them.
              AND NOT (c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits AS h WHERE h.inhparent = c.oid))
        ) AS key
    ),
    'indexed', (
        SELECT COALESCE(json_agg(DISTINCT a.attname), '[]'::json)
        FROM pg_index AS i
        JOIN pg_class AS x ON x.oid = i.indexrelid
        JOIN pg_am AS m ON m.oid = x.relam AND m.amname IN ('gist', 'spgist', 'brin')
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = c.oid AND i.indisvalid
    )
)::text
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
  AND EXISTS (
      SELECT FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
      JOIN pg_type AS base ON base.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND base.typname IN ('geometry', 'geography'))
ORDER BY n.nspname, c.relname
