-- What an install must know about the table $1: its relatives (the table, its partitions, children and parents), its columns, and the unique index
-- that pairs old rows with their new versions, with the equality operators of its operator classes if these are safe to use.
WITH RECURSIVE below AS (
    SELECT $1::oid AS relation
    UNION
    SELECT i.inhrelid FROM below AS b JOIN pg_inherits AS i ON i.inhparent = b.relation
),
above AS (
    SELECT $1::oid AS relation
    UNION
    SELECT i.inhparent FROM above AS a JOIN pg_inherits AS i ON i.inhrelid = a.relation
),
relatives AS (SELECT * FROM below UNION SELECT * FROM above),
column_type AS (
    SELECT a.attnum, a.attname, a.atttypid, a.atttypmod, t.typname,
        -- Not exact: float8 (0 and -0), numeric (1.0 and 1.00), bpchar, interval, timetz, jsonb and all types that are not built in.
        t.typnamespace = 'pg_catalog'::regnamespace AND t.typname IN ('bool', 'bytea', 'date', 'int2', 'int4', 'int8', 'oid',
            'text', 'time', 'timestamp', 'timestamptz', 'uuid', 'varchar') AS is_exact,
        a.attcollation <> 0 AS is_collated,
        t.typname = 'geometry' AND t.typnamespace = {postgis_name}::regnamespace AS is_geometry,
        t.typname IN ('geometry', 'geography') AND t.typnamespace = {postgis_name}::regnamespace AS is_spatial,
        CASE WHEN t.typname IN ('geometry', 'geography') THEN {postgis}.postgis_typmod_type(a.atttypmod) ELSE '' END AS shape,
        CASE WHEN t.typname IN ('geometry', 'geography') THEN {postgis}.postgis_typmod_srid(a.atttypmod) ELSE 0 END AS srid,
        format_type(a.atttypid, a.atttypmod) AS called,
        {decoding} AS decoding
    FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
)
SELECT json_build_object(
    -- The owner, whether that is a superuser, and whether this role has the owner's rights.
    'owner', (SELECT pg_get_userbyid(c.relowner) FROM pg_class AS c WHERE c.oid = $1),
    'is_of_superuser', (SELECT r.rolsuper FROM pg_class AS c JOIN pg_roles AS r ON r.oid = c.relowner WHERE c.oid = $1),
    'is_ours', (SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class AS c WHERE c.oid = $1),
    'relatives', (SELECT json_agg(json_build_object(
            'oid', c.oid::int8, 'name', {called}, 'kind', c.relkind, 'persistence', c.relpersistence,
            'columns', ARRAY(SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
        ) ORDER BY c.oid <> $1, n.nspname, c.relname)
        FROM relatives JOIN pg_class AS c ON c.oid = relatives.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace),
    'columns', (SELECT json_agg(json_build_object('name', attname, 'type_oid', atttypid::int8, 'type_modifier', atttypmod, 'kind', typname, 'shape', shape, 'srid', srid,
        'is_exact', is_exact, 'is_collated', is_collated, 'is_geometry', is_geometry,
        'is_spatial', is_spatial, 'type_text', called, 'decoding', decoding)
        ORDER BY attnum) FROM column_type),
    'key', coalesce((SELECT key FROM (
            -- An operator is looked up by the types of its arguments, and the owner of a type can create another operator that fits better, or an
            -- implicit cast. The operator is certain only if the types are PostgreSQL's own, or if they are exactly the operator's types and the
            -- operator is written in C, which only a superuser can do.
            SELECT json_agg(json_build_object('name', a.attname, 'equals', CASE
                    WHEN t.typnamespace = 'pg_catalog'::regnamespace AND n.nspname = 'pg_catalog'
                        OR c.opcintype = a.atttypid AND l.lanname IN ('internal', 'c')
                    THEN format('OPERATOR(%I.%s)', n.nspname, o.oprname) END)
                       ORDER BY k.place) AS key, i.indisprimary, count(*) AS columns, i.indexrelid
            FROM pg_index AS i
            CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k (attnum, opclass, place)
            JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
            JOIN pg_opclass AS c ON c.oid = k.opclass
            JOIN pg_amop AS m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype
                AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3 -- btree: equal
            JOIN pg_operator AS o ON o.oid = m.amopopr
            JOIN pg_namespace AS n ON n.oid = o.oprnamespace
            JOIN pg_type AS t ON t.oid = a.atttypid
            JOIN pg_proc AS p ON p.oid = o.oprcode JOIN pg_language AS l ON l.oid = p.prolang
            WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
            GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts
            HAVING bool_and(a.attnotnull) AND count(*) = i.indnkeyatts
        ) AS usable
        ORDER BY indisprimary DESC, columns, indexrelid LIMIT 1), '[]')
)::text
