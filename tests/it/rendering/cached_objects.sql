CREATE DOMAIN tags AS jsonb;
-- In an order of keys that differs from place to place: members of every kind, none, and other values than objects.
CREATE TABLE objects AS SELECT i AS id, ST_SetSRID(ST_MakePoint(5 + i % 8 * 20 + sin(i) * i / 900, 8 + i % 5 * 11 + cos(i * 1.7) * i / 1500), 4326) AS place,
    CASE WHEN i % 5 > 0 THEN 'w' || i * 7919 % 13 END AS word, i % 7 AS size, object, object::tags AS tags
FROM generate_series(1, 2600) AS i CROSS JOIN LATERAL (SELECT CASE i * 7 % 16
    WHEN 0 THEN NULL
    WHEN 1 THEN '[1, "a", {"b": 2}]'
    WHEN 2 THEN (ARRAY['"text"', 'null', '5', 'true'])[1 + i % 4]::jsonb
    WHEN 3 THEN '{}'
    WHEN 4 THEN jsonb_build_object('a', i, 'word 2', 'w' || i % 9, 'ok', i % 3 = 0)
    WHEN 5 THEN '{"zz": null, "a": "x", "nested": {"b": 1}, "list": [1], "null": "null"}'
    WHEN 6 THEN jsonb_build_object('', i % 3, 'Größe', -i, '名', '値' || i % 2, 'q"\', false, 'empty', '')
    WHEN 7 THEN '{"big": 1e400, "small": -1e400, "zero": -0, "half": 0.5, "tiny": 0.00000001, "max": 9223372036854775807, "more": 9223372036854775808,
        "low": -9223372036854775809, "exact": 9007199254740993, "negative": -2.5, "minus": -3, "long": 0.12345678901234567890123}'
    WHEN 8 THEN jsonb_build_object('k' || i % 40, i % 5)
    WHEN 9 THEN jsonb_build_object('z', 'a', 'y', i % 7, 'x', NULL)
    WHEN 10 THEN jsonb_build_object('x', 'w' || i % 13, 'y', true)
    WHEN 11 THEN jsonb_build_object('empty', NULL, 'only', '[]'::jsonb)
    WHEN 12 THEN jsonb_build_object('ok', 'true', 'a', 'x', 'long', repeat('ü', i % 300))
    ELSE jsonb_build_object('k' || i % 3, i % 2 = 0, 'of', 'w' || i % 13)
END AS object) AS made;
-- Members whose names are those of columns, and of what the statements of this program call a column.
INSERT INTO objects SELECT 10000 + i, ST_SetSRID(ST_MakePoint(i - 50.5, i % 9), 4326), 'word', i, object, object FROM generate_series(1, 100) AS i
    CROSS JOIN LATERAL (SELECT CASE i % 4
        WHEN 0 THEN jsonb_build_object('word', 'w' || i % 3, 'id', i, 'size', NULL)
        WHEN 1 THEN jsonb_build_object('object', 1, 'object_', 'o', 'geom', true, 'mvt_geometry', 'm', 'feature_id', i % 2, 'tags', '3')
        WHEN 2 THEN jsonb_build_object('x', 1, 'zoom', 7, 'y', NULL, 'size', i % 3)
        ELSE jsonb_build_object('b', 1, 'size', '{}'::jsonb, 'word', NULL) END AS object) AS made;
ALTER TABLE objects ADD PRIMARY KEY (id); CREATE INDEX ON objects USING gist (place); ANALYZE objects
