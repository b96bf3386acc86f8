-- The log's state compared with the present catalog, as one JSON text: the watches that the definitions $1 need, the watches on the tables $2, and
-- whether "everything" was logged since the snapshot $3.
WITH RECURSIVE needed AS (
    SELECT definition, watch, columns FROM {schema}.needs WHERE definition = ANY ($1)
),
chosen AS (
    SELECT w.* FROM {schema}.watch AS w
    WHERE w.id IN (SELECT watch FROM needed) OR w.relation = ANY ($2)
),
-- Rows of a table are changed through it, its children, and its parents.
below AS (
    SELECT id AS watch, relation FROM chosen
    UNION
    SELECT b.watch, i.inhrelid FROM below AS b JOIN pg_inherits AS i ON i.inhparent = b.relation
),
above AS (
    SELECT id AS watch, relation FROM chosen
    UNION
    SELECT a.watch, i.inhparent FROM above AS a JOIN pg_inherits AS i ON i.inhrelid = a.relation
),
relatives AS (SELECT * FROM below UNION SELECT * FROM above)
SELECT json_build_object(
    'layout', state.layout, 'installs', state.installs, 'last_watch', state.last_watch, 'pruned', state.pruned::text,
    -- A log of layout 1 does not have these columns.
    'owner', to_jsonb(state) ->> 'owner', 'owner_is_made', coalesce((to_jsonb(state) ->> 'owner_is_made')::boolean, false),
    'has_key', (to_jsonb(state) ->> 'identity_key') IS NOT NULL,
    'ahead', (SELECT known.xid::text FROM (
            SELECT state.pruned AS xid UNION ALL (SELECT e.xid FROM {schema}.change AS e ORDER BY e.xid DESC LIMIT 1)) AS known
        WHERE known.xid >= pg_snapshot_xmax(pg_current_snapshot()) ORDER BY known.xid DESC LIMIT 1),
    'is_identified', (SELECT bool_and(c.relreplident NOT IN ('d', 'n')) FROM pg_class AS own JOIN pg_class AS c USING (relnamespace)
        WHERE own.oid = state.tableoid AND c.relname IN ('needs', 'change')),
    'needs', (SELECT coalesce(json_agg(needed), '[]') FROM needed),
    'watches', (SELECT coalesce(json_agg(json_build_object(
        'id', w.id, 'relation', w.relation::int8, 'name', w.name, 'geometry', w.geometry, 'query', w.query,
        'logged', w.logged, 'key', w.key, 'truncate_rows', w.truncate_rows, 'since', w.since::text,
        'current_name', (SELECT {called} FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.oid = w.relation),
        'function_is_ours', EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = w.noter AND p.xmin = w.noter_xmin),
        'function_hash', (SELECT md5(p.prosrc) FROM pg_proc AS p WHERE p.oid = w.noter),
        'everything', EXISTS (SELECT FROM {schema}.change AS e WHERE e.everything AND e.watch = w.id
            AND e.xid >= pg_snapshot_xmin($3::text::pg_snapshot) AND NOT pg_visible_in_snapshot(e.xid, $3::text::pg_snapshot)),
        'columns', (SELECT coalesce(json_agg(json_build_object(
                'name', d.column_name, 'number', d.attnum, 'since', d.since::text,
                'is_same', a.attnum IS NOT NULL AND a.attnum = d.attnum AND a.xmin = d.attribute_xmin,
                'decoding', {decoding})), '[]')
            FROM {schema}.watched AS d
            LEFT JOIN pg_attribute AS a ON a.attrelid = w.relation AND a.attname = d.column_name AND NOT a.attisdropped
            WHERE d.watch = w.id),
        'members', (SELECT coalesce(json_agg(json_build_object(
                'name', coalesce((SELECT {called} FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                    WHERE c.oid = coalesce(m.relation, k.relation)), m.name),
                'is_noted', m.relation IS NOT NULL, 'is_related', k.relation IS NOT NULL,
                'noted', m.triggers, 'found', {triggers}, 'is_tied', m.ties = {ties},
                'is_kept', coalesce((SELECT c.relpersistence = 'p' FROM pg_class AS c WHERE c.oid = coalesce(m.relation, k.relation)), true),
                'is_subscribed', EXISTS (SELECT FROM pg_subscription_rel AS s WHERE s.srrelid = k.relation))), '[]')
            FROM (SELECT * FROM {schema}.member WHERE watch = w.id) AS m
            FULL JOIN (SELECT * FROM relatives WHERE watch = w.id) AS k ON k.relation = m.relation)
    ) ORDER BY w.id), '[]') FROM chosen AS w)
)::text
FROM {schema}.state
