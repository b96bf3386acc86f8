CREATE DOMAIN workers AS integer;
CREATE TABLE rows AS SELECT i AS id, ST_SetSRID(ST_MakePoint(x, y), 4326) AS degrees,
    CASE WHEN i % 5 > 0 THEN 'w' || i * 7919 % 13 END AS word,
    CASE i % 3 WHEN 0 THEN true WHEN 1 THEN false END AS flag,
    (i * 31 % 65536 - 32768)::int2 AS short, CASE WHEN i % 7 > 0 THEN i * 1000 - 900000 END AS whole,
    9223372036854775807 - i AS wide, (i % 40)::workers AS workers,
    CASE i % 50 WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity' WHEN 2 THEN NULL ELSE date '1990-01-01' + i END AS day,
    timestamptz '1999-12-31 23:59:59.999999+02' + i * interval '1 hour' AS stamp,
    CASE WHEN i % 11 > 0 THEN timestamp '2001-02-03' - i * interval '1 minute' END AS local,
    md5((i % 17)::text)::uuid AS tag, i / 7.0::float8 AS part
FROM (SELECT i, 5 + i % 8 * 20 + sin(i) * i / 900 AS x, 8 + i % 5 * 11 + cos(i * 1.7) * i / 1500 AS y FROM generate_series(1, 2500) AS i
    UNION ALL SELECT 3000 + n, x, y FROM (VALUES (1, 180, 0), (2, -180, 0), (3, 0, 0), (4, 0, 85.05112878), (5, 180, -85.05112878),
        (6, -180, 85.05), (7, -179.99999, -60.1), (8, -120, -40), (9, -120, -40), (10, -100, -80),
        (11, -135.00000004, 20), (12, -134.99999996, 20)) AS edge (n, x, y)) AS placed;
ALTER TABLE rows ADD PRIMARY KEY (id), ADD COLUMN mercator geometry(Point, 3857), ADD COLUMN lambert geometry(Point, 3035),
    ADD COLUMN round geography(Point), ADD COLUMN line geometry(LineString, 4326);
UPDATE rows SET mercator = ST_Transform(degrees, 3857), round = degrees::geography,
    lambert = CASE WHEN id <= 2500 AND id % 8 < 2 THEN ST_Transform(degrees, 3035) END,
    line = CASE WHEN id <= 2500 THEN ST_MakeLine(degrees, ST_Translate(degrees, 2, 1)) END;
INSERT INTO rows (id, word, whole) VALUES (5000, 'no place', 1), (5001, NULL, NULL);
CREATE INDEX ON rows USING gist (degrees); CREATE INDEX ON rows USING gist (mercator); CREATE INDEX ON rows USING gist (lambert);
CREATE INDEX ON rows USING gist (round); CREATE INDEX ON rows USING gist (line); ANALYZE rows
