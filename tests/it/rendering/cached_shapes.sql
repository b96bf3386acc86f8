-- Lines and polygons of every form around some towns, where tiles of many zooms meet; each in metres, in degrees and in a national system.
CREATE FUNCTION random_of(seed int8) RETURNS float8 IMMUTABLE LANGUAGE sql AS
    $$ SELECT (('x' || substr(md5(seed::text), 1, 8))::bit(32)::int8 & 2147483647) / 2147483648.0 $$;
-- The middle of each row: some lie on the edges of tiles of a zoom, moved by as many of its grid units as its buffer has.
CREATE TABLE middles AS SELECT n, CASE WHEN n % 3 = 0 THEN towns.x + 3000 * random_of(n) ELSE edge.x END AS x,
    CASE WHEN n % 3 = 0 THEN towns.y + 3000 * random_of(-n) ELSE edge.y END AS y, 2 ^ (random_of(7 * n) * 12) AS size
FROM generate_series(1, 3000) AS n
    CROSS JOIN LATERAL (SELECT (ARRAY[776000, 0, -8238000])[1 + n % 3] AS x, (ARRAY[5450000, 0, 4970000])[1 + n % 3] AS y) AS towns
    CROSS JOIN LATERAL (SELECT 8 + n % 7 AS z) AS zooms CROSS JOIN LATERAL (SELECT 40075016.68557849 / 2 ^ z AS side) AS sides
    CROSS JOIN LATERAL (SELECT round(776000 / side) * side + (ARRAY[0, 64, -64, 64.5, 20])[1 + n % 5] * side / 4096 AS x,
        round(5450000 / side) * side + (ARRAY[64, 0, -64, 8])[1 + n % 4] * side / 4096 AS y) AS edge;
CREATE TABLE lines AS SELECT n AS id, 'line ' || n % 50 AS name, n % 7 AS class, CASE
    WHEN n % 11 = 0 THEN ST_Multi(line) WHEN n % 13 = 0 THEN ST_Collect(line, ST_Translate(line, size, 3)) WHEN n % 17 = 0 THEN ST_LineMerge(ST_Collect(line, ST_Reverse(line)))
    WHEN n % 19 = 0 THEN ST_AddPoint(line, ST_StartPoint(line)) ELSE line END AS metres
FROM middles CROSS JOIN LATERAL (
    SELECT ST_SetSRID(ST_MakeLine(ARRAY(
        -- Steps in eight directions, or in any, some back to where they came from.
        SELECT ST_MakePoint(x + sum(dx) OVER (ORDER BY k), y + sum(dy) OVER (ORDER BY k))
        FROM generate_series(1, 2 + (n * 7) % 40) AS k
            CROSS JOIN LATERAL (SELECT CASE WHEN n % 2 = 0 THEN pi() / 4 * floor(8 * random_of(n * 100 + k)) ELSE 6.3 * random_of(n * 100 + k) END AS angle) AS angles
            CROSS JOIN LATERAL (SELECT CASE WHEN k % 9 = 8 THEN 0 ELSE size * random_of(k - n * 100) END AS step) AS steps
            CROSS JOIN LATERAL (SELECT step * cos(angle) AS dx, step * sin(angle) AS dy) AS moves)), 3857) AS line) AS drawn;
CREATE TABLE areas AS SELECT n AS id, 'area ' || n % 50 AS name, n % 7 AS class, CASE
    WHEN n % 11 = 0 THEN ST_Multi(area) WHEN n % 13 = 0 THEN ST_Collect(area, ST_Translate(area, 3 * size, 0)) WHEN n % 2 = 0 THEN ST_Reverse(area) ELSE area END AS metres
FROM middles CROSS JOIN LATERAL (SELECT CASE WHEN n % 4 = 0 THEN 0 ELSE 3.2 * random_of(n * 11) END AS turn, size * (0.3 + random_of(n * 5)) AS w, size * (0.3 + random_of(n * 3)) AS h) AS sides
    CROSS JOIN LATERAL (SELECT CASE n % 6
        WHEN 0 THEN format('POLYGON((0 0,%s 0,%1$s %s,0 %2$s,0 0))', w, h)
        WHEN 1 THEN format('POLYGON((0 0,%s 0,%1$s %s,%s %2$s,%3$s %s,0 %4$s,0 0))', w, h / 2, w / 3, h)
        WHEN 2 THEN format('POLYGON((0 0,%s 0,%1$s %s,0 %2$s,0 0),(%s %s,%3$s %s,%s %5$s,%6$s %4$s,%3$s %4$s))', w, h, w / 4, h / 4, h / 2, w / 2)
        -- A U, and a star, which goes up and down more than once.
        WHEN 3 THEN format('POLYGON((0 0,%s 0,%1$s %s,%s %2$s,%3$s %s,%s %4$s,%5$s %2$s,0 %2$s,0 0))', w, h, w * 0.7, h / 3, w * 0.2)
        WHEN 4 THEN (SELECT 'POLYGON((' || string_agg(format('%s %s', x, y), ',' ORDER BY k) || '))' FROM (
            SELECT k, w * r * cos(k % 9 * 0.698) AS x, h * r * sin(k % 9 * 0.698) AS y FROM generate_series(0, 9) AS k CROSS JOIN LATERAL (SELECT 0.2 + random_of(n * 31 + k % 9) AS r) AS radii) AS star)
        -- A bow tie: not valid.
        ELSE format('POLYGON((0 0,%s %s,%1$s 0,0 %2$s,0 0))', w, h) END AS text) AS texts
    CROSS JOIN LATERAL (SELECT ST_SetSRID(ST_Translate(ST_Rotate(text::geometry, turn), x, y), 3857) AS area) AS drawn;
ALTER TABLE lines ADD PRIMARY KEY (id), ADD COLUMN degrees geometry, ADD COLUMN lambert geometry;
ALTER TABLE areas ADD PRIMARY KEY (id), ADD COLUMN degrees geometry, ADD COLUMN lambert geometry;
UPDATE lines SET degrees = ST_Transform(metres, 4326), lambert = ST_Transform(metres, 3035);
UPDATE areas SET degrees = ST_Transform(metres, 4326), lambert = ST_Transform(metres, 3035);
CREATE INDEX ON lines USING gist (metres); CREATE INDEX ON lines USING gist (degrees); CREATE INDEX ON lines USING gist (lambert);
CREATE INDEX ON areas USING gist (metres); CREATE INDEX ON areas USING gist (degrees); CREATE INDEX ON areas USING gist (lambert);
