-- Three databases of a stranger's own, as scripts/gallery draws them: names that need quotes, shapes beside lines, and a projected table.
SELECT setseed(0.2026);

CREATE SCHEMA points;
CREATE TABLE points."Windräder (EU)" (
    "select" int PRIMARY KEY,
    "Größe in MW" numeric(4, 1) NOT NULL,
    "gebaut am" date,
    "name of ""the owner""" text,
    "Lage" geometry(Point, 4326) NOT NULL
);
WITH park AS (
    SELECT number, lon + 3 * (random() - 0.5) AS lon, lat + 2 * (random() - 0.5) AS lat
    FROM generate_series(1, 1500) AS number
    JOIN (VALUES (0, 8.2, 54.1), (1, 4.5, 52.5), (2, -3.5, 55.5), (3, 10.5, 56.2), (4, -8.0, 42.8), (5, 1.5, 49.6), (6, 16.5, 48.2),
        (7, 25.5, 60.2), (8, -5.5, 37.2), (9, 18.2, 54.4), (10, 15.8, 41.2), (11, 23.6, 40.9)) AS town (kind, lon, lat) ON kind = number % 12
)
INSERT INTO points."Windräder (EU)"
SELECT n, 1.5 + n % 60 / 10.0, date '1995-01-01' + n % 10000, 'Owner ' || n % 40,
    ST_SetSRID(ST_MakePoint(
        park.lon + sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) * 0.05,
        park.lat + sqrt(-2 * ln(1 - random())) * sin(2 * pi() * random()) * 0.03), 4326)
FROM generate_series(1, 100000) AS n JOIN park ON park.number = 1 + n % 1500;
CREATE INDEX ON points."Windräder (EU)" USING gist ("Lage");

CREATE SCHEMA shapes;
CREATE TABLE shapes.regions (id int PRIMARY KEY, inhabitants int NOT NULL, geom geometry(Polygon, 4326) NOT NULL);
WITH seats AS (SELECT ST_Collect(ST_MakePoint(-9 + 36 * random(), 37 + 22 * random())) AS g FROM generate_series(1, 1500)),
    cells AS (SELECT (ST_Dump(ST_VoronoiPolygons(g))).geom AS cell FROM seats)
INSERT INTO shapes.regions
SELECT row_number() OVER (), (500 + 100000 * random() ^ 4)::int, ST_SetSRID(cell, 4326)
FROM cells WHERE cell @ ST_MakeEnvelope(-10, 36, 28, 60);
CREATE TABLE shapes.streams (id int PRIMARY KEY, discharge float8 NOT NULL, geom geometry(LineString, 4326) NOT NULL);
WITH spring AS (
    SELECT n, -9 + 36 * random() AS lon, 37 + 22 * random() AS lat, 2 * pi() * random() AS towards, 0.03 + 1.2 * random() ^ 12 AS length, 20 * random() AS bends
    FROM generate_series(1, 20000) AS n
)
INSERT INTO shapes.streams
SELECT n, length * 10, ST_SetSRID((
    SELECT ST_MakeLine(ST_MakePoint(
        lon + length * (along * cos(towards) + 0.12 * sin(along * bends) * sin(towards)),
        lat + length * (along * sin(towards) - 0.12 * sin(along * bends) * cos(towards)) * 0.65) ORDER BY along)
    FROM (SELECT step / 20.0::float8 AS along FROM generate_series(0, 20) AS step) AS steps), 4326)
FROM spring;
CREATE INDEX ON shapes.regions USING gist (geom);
CREATE INDEX ON shapes.streams USING gist (geom);

-- Hexagons of 3 km in the Swiss grid.
CREATE SCHEMA projected;
CREATE TABLE projected.land_use (id int PRIMARY KEY, hectares float8 NOT NULL, use text NOT NULL, geom geometry(Polygon, 2056) NOT NULL);
INSERT INTO projected.land_use
SELECT row_number() OVER (), 65 * random(), (ARRAY['forest', 'meadow', 'town', 'rock'])[1 + abs(i / 7 + j / 5) % 4], geom
FROM ST_HexagonGrid(3000, ST_MakeEnvelope(2500000, 1090000, 2790000, 1290000, 2056));
CREATE INDEX ON projected.land_use USING gist (geom);
ANALYZE;
