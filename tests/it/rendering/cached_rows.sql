CREATE TABLE rows AS SELECT i AS id, ST_SetSRID(ST_MakePoint(x, y), 4326) AS degrees,
    CASE WHEN i % 5 > 0 THEN 'w' || i * 7919 % 13 END AS word, CASE i % 4 WHEN 0 THEN '' ELSE md5(i::text) END AS hash,
    CASE i % 3 WHEN 0 THEN true WHEN 1 THEN false END AS flag, (i * 31 % 65536 - 32768)::int2 AS short,
    CASE WHEN i % 7 > 0 THEN i * 1000 - 900000 END AS whole, -9223372036854775807 + i AS wide,
    CASE WHEN i % 6 = 3 THEN 'infinity'::float8 ELSE CASE i % 6 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN '0' ELSE i / 7.0 END::float8 END AS part,
    CASE i % 6 WHEN 0 THEN 'NaN' WHEN 1 THEN '-0' WHEN 2 THEN '0' ELSE i / 7.0 END::float4 AS short_part, i / 3.0 AS exact,
    date '1990-01-01' + i % 100 AS day, timestamptz '1999-12-31 23:59:59.999999+02' + i * interval '1 hour' AS stamp,
    md5(i::text)::uuid AS tag, i % 7 AS "group", 'x' || (1000 - i) AS "Name of ""it""",
    jsonb_build_object('n', i % 3) AS object
FROM (SELECT i, 5 + i % 8 * 20 + sin(i) * i / 900 AS x, 8 + i % 5 * 11 + cos(i * 1.7) * i / 1500 AS y FROM generate_series(1, 1500) AS i
    UNION ALL SELECT 3000 + n, x, y FROM (VALUES (1, 180, 0), (2, -180, 0), (3, 0, 0), (4, 0, 85.05112878), (5, 180, -85.05112878),
        (6, -180, 85.05), (7, -179.99999, -60.1), (8, -120, -40), (9, -120, -40), (10, -100, -80), (11, 0, 86), (12, 0, -90)) AS edge (n, x, y)) AS placed;
ALTER TABLE rows ADD PRIMARY KEY (id), ADD COLUMN mercator geometry(Point, 3857), ADD COLUMN lambert geometry(Point, 3035),
    ADD COLUMN round geography(Point), ADD COLUMN high geometry(PointZ, 4326);
UPDATE rows SET mercator = ST_Transform(degrees, 3857), round = degrees::geography, high = ST_Force3D(degrees, id) WHERE abs(ST_Y(degrees)) < 86;
UPDATE rows SET lambert = ST_Transform(degrees, 3035) WHERE id <= 1500 AND id % 8 < 2;
INSERT INTO rows (id, word, degrees) VALUES (5000, 'no place', NULL), (5001, NULL, 'SRID=4326;POINT EMPTY'),
    (5002, 'nowhere', 'SRID=4326;POINT(NaN 5)'), (5003, 'beyond', 'SRID=4326;POINT(190 5)');
CREATE INDEX ON rows USING gist (degrees); CREATE INDEX ON rows USING gist (mercator); CREATE INDEX ON rows USING gist (lambert);
CREATE INDEX ON rows USING gist (round); CREATE INDEX ON rows USING gist (high); ANALYZE rows;
-- Between two units, on the edges of tiles, and on those of their buffers.
CREATE TABLE halves AS SELECT i AS id, ST_SetSRID(ST_MakePoint((i - 300) * 360 / 2.0 ^ (8 + i % 14), (i % 3 - 1) * 66.51326044311186), 4326) AS degrees
    FROM generate_series(1, 600) AS i;
ALTER TABLE halves ADD PRIMARY KEY (id); CREATE INDEX ON halves USING gist (degrees)
