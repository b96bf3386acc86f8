-- Polygons and lines that fill many tiles: stars with and without holes, islands in lakes, polygons in parts, invalid ones, long lines.
SELECT setseed(0.42);
CREATE FUNCTION star(x float8, y float8, r float8, points int) RETURNS geometry LANGUAGE sql AS $$
    SELECT ST_SetSRID(ST_MakePolygon(ST_AddPoint(line, ST_StartPoint(line))), 4326) FROM (
        SELECT ST_MakeLine(ST_MakePoint(x + cos(angle) * far, y + sin(angle) * far) ORDER BY angle) AS line
        FROM (SELECT 2 * pi() * i / points AS angle, r * (0.55 + 0.45 * random()) AS far FROM generate_series(0, points - 1) AS i OFFSET 0) AS corners
    ) AS made
$$;
CREATE TABLE shapes (id serial PRIMARY KEY, name text, g geometry);
INSERT INTO shapes (name, g) SELECT 'star ' || i, star(-20 + 50 * random(), 30 + 30 * random(), 2 + 6 * random(), (20 + 300 * random())::int) FROM generate_series(1, 8) AS i;
INSERT INTO shapes (name, g) SELECT 'with holes', ST_Difference(star(20, 20, 12, 90), ST_Union(star(20, 20, 3, 40), star(14, 22, 1, 5)));
INSERT INTO shapes (name, g) SELECT 'with an island', ST_Union(ST_Difference(star(60, 10, 14, 60), star(60, 10, 6, 40)), star(60, 10, 3, 30));
INSERT INTO shapes (name, g) SELECT 'in parts', ST_Collect(ARRAY[star(100, 10, 4, 30), star(108, 14, 3, 50), star(100, 20, 2, 500), star(109, 21, 0.01, 8)]);
INSERT INTO shapes (name, g) SELECT 'box ' || i, ST_MakeEnvelope(130 + i, 10 + i, 139 + i / 3.0, 18, 4326) FROM generate_series(1, 3) AS i;
INSERT INTO shapes (name, g) VALUES
    ('bow tie', 'SRID=4326;POLYGON((-60 0, -50 9, -50 0, -60 9, -60 0))'),
    ('wound twice', 'SRID=4326;POLYGON((-80 0, -70 0, -70 10, -80 10, -80 0, -79 1, -71 1, -71 9, -79 9, -79 1, -80 0))'),
    ('parts that overlap', 'SRID=4326;MULTIPOLYGON(((-40 0, -30 0, -30 8, -40 8, -40 0)), ((-35 2, -27 2, -27 9, -35 9, -35 2)))'),
    ('parts that run in both directions', 'SRID=4326;MULTIPOLYGON(((-150 0, -140 0, -140 8, -150 8, -150 0)), ((-138 0, -138 8, -130 8, -130 0, -138 0)), ((-128 0, -120 0, -120 8, -128 8, -128 0)))'),
    ('crossed at a corner', 'SRID=4326;POLYGON((-150 -20, -140 -20, -140 -10, -150 -10, -150 -19.5, -150.3 -20.3, -149.7 -20.3, -150 -20))'),
    ('touches itself', 'SRID=4326;POLYGON((-130 -20, -125 -20, -125 -15, -120 -15, -120 -10, -125 -10, -125 -15, -130 -15, -130 -20))'),
    ('only a hole', 'SRID=4326;MULTIPOLYGON(((178.6 -89.999, 0 -89.999, -180 -89.999, 178.6 -89.999), (-110 -20, -100 -20, -100 -10, -110 -10, -110 -20)), ((-108 -18, -104 -18, -104 -14, -108 -14, -108 -18)))'),
    ('a spike along the edge', 'SRID=4326;POLYGON((172 40, 178 40, 178 48, 180 48, 180 -60, 180 48, 178 48, 178 49, 172 49, 172 40))'),
    ('a hole outside', 'SRID=4326;POLYGON((-100 0, -92 0, -92 8, -100 8, -100 0), (-90 1, -88 1, -88 5, -90 5, -90 1))'),
    ('to the pole', 'SRID=4326;POLYGON((150 -89.9, 165 -89.9, 165 -78, 158 -80, 150 -78, 150 -89.9))'),
    ('at the edge', 'SRID=4326;MULTIPOLYGON(((170 60, 180 60, 180 70, 171 69, 170 60)), ((-180 60, -174 61, -180 70, -180 60)))'),
    ('with a collection', 'SRID=4326;GEOMETRYCOLLECTION(POLYGON((-120 30, -112 30, -112 38, -120 38, -120 30)), LINESTRING(-125 28, -110 41), POINT(-111 29))');
INSERT INTO shapes (name, g) SELECT 'islands', ST_Collect(ARRAY(SELECT star(-10 + 2 * (i % 7), -50 + 2 * (i / 7), 0.3 + random(), 6 + 10 * i) FROM generate_series(0, 40) AS i));
INSERT INTO shapes (name, g) SELECT 'coasts', ST_Collect(ARRAY(SELECT ST_Boundary(star(30 + 2 * (i % 7), -50 + 2 * (i / 7), 0.3 + random(), 6 + 10 * i)) FROM generate_series(0, 40) AS i));
INSERT INTO shapes (name, g) SELECT 'line ' || i, ST_Boundary(star(-110 + 20 * i, -30, 9, 40 * i)) FROM generate_series(1, 3) AS i;
INSERT INTO shapes (name, g) SELECT 'lines', ST_Multi(ST_Collect(ST_Boundary(star(0 + 4 * i, -30, 3, 60)))) FROM generate_series(1, 3) AS i;
INSERT INTO shapes (name, g) SELECT 'small ' || i, star(-20 + 50 * random(), 30 + 30 * random(), 0.1, 12) FROM generate_series(1, 200) AS i;
CREATE INDEX ON shapes USING gist (g);
