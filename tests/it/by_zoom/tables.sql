-- Points, and lines and polygons, in a few places; no value is left to chance. One in seven workers, from_zoom and to_zoom is NULL.
CREATE TABLE mill (id int PRIMARY KEY, name text, note text, workers int, from_zoom int, to_zoom numeric, g geometry(Point, 4326));
INSERT INTO mill
    SELECT i, 'mill ' || i, '', nullif(i * 7919 % 1000, (i % 7 = 0)::int * (i * 7919 % 1000)),
        nullif(i * 31 % 9, (i % 7 = 1)::int * (i * 31 % 9)), nullif(4.5 + i * 17 % 5, (i % 7 < 3)::int * (4.5 + i * 17 % 5)),
        ST_SetSRID(ST_MakePoint(
            (ARRAY[90.4, 8.5, -74.0])[1 + i % 3] + (i * 37 % 101) / 40.0 * (1 + i % 5),
            (ARRAY[23.8, 47.4, 40.7])[1 + i % 3] + (i * 53 % 103) / 60.0), 4326)
    FROM generate_series(1, 600) AS i;
CREATE INDEX ON mill USING gist (g);
CREATE TABLE shape (id int PRIMARY KEY, name text, note text, workers int, from_zoom int, to_zoom numeric, g geometry);
INSERT INTO shape
    SELECT id, 'shape ' || id, '', workers, from_zoom, to_zoom, CASE id % 3
        WHEN 0 THEN ST_Buffer(m, 500 * (1 + id % 40), 16)
        WHEN 1 THEN ST_MakeLine(ARRAY(SELECT ST_Translate(m, step * 900, 4000 * sin(step * id)) FROM generate_series(0, 60) AS step))
        ELSE ST_Difference(ST_Buffer(m, 30000, 24), ST_Buffer(ST_Translate(m, 3000, 0), 8000, 24)) END
    FROM mill CROSS JOIN LATERAL (SELECT ST_Transform(g, 3857) AS m) AS projected WHERE id <= 100;
CREATE INDEX ON shape USING gist (g);
