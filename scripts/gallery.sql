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

-- Cities of Europe: longitude, latitude, inhabitants in hundred thousands, roughly.
CREATE TEMPORARY TABLE city AS
SELECT row_number() OVER () AS number, c.* FROM (VALUES
    ('London', -0.1, 51.5, 90), ('Paris', 2.35, 48.86, 95), ('Madrid', -3.7, 40.42, 60), ('Berlin', 13.4, 52.52, 40), ('Rome', 12.5, 41.9, 30),
    ('Milan', 9.19, 45.46, 32), ('Vienna', 16.37, 48.21, 22), ('Warsaw', 21.0, 52.23, 20), ('Budapest', 19.04, 47.5, 20), ('Munich', 11.58, 48.14, 18),
    ('Hamburg', 9.99, 53.55, 20), ('Cologne', 6.96, 50.94, 20), ('Essen', 7.01, 51.46, 30), ('Frankfurt', 8.68, 50.11, 18), ('Stuttgart', 9.18, 48.78, 14),
    ('Brussels', 4.35, 50.85, 20), ('Amsterdam', 4.9, 52.3, 18), ('Rotterdam', 4.48, 51.92, 12), ('Lyon', 4.84, 45.76, 16), ('Toulouse', 1.44, 43.6, 10),
    ('Bordeaux', -0.45, 44.84, 8), ('Lille', 3.06, 50.63, 12), ('Zurich', 8.54, 47.38, 12), ('Bern', 7.45, 46.95, 5), ('Geneva', 6.2, 46.2, 6),
    ('Turin', 7.68, 45.07, 12), ('Bologna', 11.34, 44.49, 8), ('Florence', 11.25, 43.77, 7), ('Prague', 14.43, 50.08, 14), ('Brno', 16.6, 49.2, 5),
    ('Dresden', 13.74, 51.05, 7), ('Leipzig', 12.37, 51.34, 7), ('Hanover', 9.73, 52.37, 7), ('Nuremberg', 11.08, 49.45, 7), ('Krakow', 19.94, 50.06, 10),
    ('Wroclaw', 17.03, 51.11, 8), ('Lodz', 19.46, 51.76, 8), ('Poznan', 16.93, 52.41, 7), ('Katowice', 19.02, 50.26, 18), ('Lviv', 24.03, 49.84, 8),
    ('Bucharest', 26.1, 44.43, 18), ('Cluj', 23.6, 46.77, 4), ('Sofia', 23.32, 42.7, 13), ('Belgrade', 20.46, 44.79, 14), ('Zagreb', 15.98, 45.81, 9),
    ('Ljubljana', 14.5, 46.05, 4), ('Sarajevo', 18.41, 43.86, 4), ('Manchester', -2.24, 53.48, 26), ('Birmingham', -1.9, 52.48, 26), ('Leeds', -1.55, 53.8, 18),
    ('Dublin', -6.4, 53.35, 12), ('Glasgow', -4.25, 55.86, 10), ('Zaragoza', -0.88, 41.65, 7), ('Seville', -5.98, 37.39, 11), ('Valladolid', -4.73, 41.65, 4),
    ('Cordoba', -4.78, 37.89, 3), ('Braga', -8.35, 41.55, 7), ('Minsk', 27.56, 53.9, 18), ('Vilnius', 25.28, 54.69, 6), ('Kyiv', 30.52, 50.45, 28),
    ('Innsbruck', 11.4, 47.27, 2), ('Graz', 15.44, 47.07, 4), ('Dijon', 5.04, 47.32, 3), ('Clermont', 3.08, 45.78, 4), ('Orleans', 1.9, 47.9, 3)
) AS c (name, lon, lat, weight);
-- The places around each city, denser towards its middle: of every 20 places, 12 in the city, 6 around it, 2 in the country.
CREATE TEMPORARY TABLE place AS
SELECT row_number() OVER () AS n, city.number, city.name, city.lon AS city_lon, city.lat AS city_lat,
    city.lon + away * cos(towards) / cos(radians(city.lat)) AS lon, city.lat + away * sin(towards) AS lat
FROM city
CROSS JOIN LATERAL generate_series(1, city.weight * 40) AS one
CROSS JOIN LATERAL (
    SELECT 2 * pi() * random() AS towards, sqrt(-2 * ln(1 - random())) * CASE WHEN one % 20 < 12 THEN 0.09 WHEN one % 20 < 18 THEN 0.25 ELSE 0.5 END
        * (0.5 + sqrt(city.weight) / 8) AS away
    WHERE one > 0
) AS chance;

-- Ways to work of some places, and the districts in which they begin.
CREATE SCHEMA shapes;
CREATE TABLE shapes.districts (id int PRIMARY KEY, city text NOT NULL, places int NOT NULL, geom geometry(Polygon, 4326) NOT NULL);
INSERT INTO shapes.districts
SELECT row_number() OVER (), name, count(*), ST_SetSRID(ST_Buffer(ST_ConvexHull(ST_Collect(point)), 0.006, 2), 4326)
FROM (
    SELECT number, name, ST_Point(lon, lat) AS point, ST_ClusterKMeans(ST_Point(lon, lat), 60) OVER (PARTITION BY number) AS district FROM place
) AS placed
GROUP BY number, name, district
HAVING count(*) > 2;
CREATE TABLE shapes.commutes (id int PRIMARY KEY, "to" text NOT NULL, geom geometry(LineString, 4326) NOT NULL);
INSERT INTO shapes.commutes
SELECT n, name, ST_SetSRID((
    SELECT ST_MakeLine(ST_MakePoint(
        lon + (city_lon - lon) * along - (city_lat - lat) * bend * along * (1 - along),
        lat + (city_lat - lat) * along + (city_lon - lon) * bend * along * (1 - along)) ORDER BY along)
    FROM (SELECT step / 8.0::float8 AS along FROM generate_series(0, 8) AS step) AS steps), 4326)
FROM (SELECT place.*, 0.35 * (2 * random() - 1) AS bend FROM place WHERE n % 6 = 0) AS bent;
CREATE INDEX ON shapes.districts USING gist (geom);
CREATE INDEX ON shapes.commutes USING gist (geom);

-- A grid of Europe in its own reference system (EPSG:3035): squares of 256 km that are cut in four while they have more than 40 places, down to 1 km.
CREATE SCHEMA projected;
CREATE TABLE projected.grid (id int PRIMARY KEY, side_km int NOT NULL, count int NOT NULL, geom geometry(Polygon, 3035) NOT NULL);
WITH metric AS (SELECT ST_Transform(ST_Point(lon, lat, 4326), 3035) AS point FROM place),
    level AS (SELECT 1000 * 2 ^ power AS side FROM generate_series(0, 8) AS power),
    cell AS (
        SELECT side, floor(ST_X(point) / side) AS x, floor(ST_Y(point) / side) AS y, count(*) AS places FROM metric CROSS JOIN level GROUP BY 1, 2, 3
    )
INSERT INTO projected.grid
SELECT row_number() OVER (), cell.side / 1000, cell.places,
    ST_MakeEnvelope(cell.x * cell.side, cell.y * cell.side, (cell.x + 1) * cell.side, (cell.y + 1) * cell.side, 3035)
FROM cell
LEFT JOIN cell AS parent ON parent.side = 2 * cell.side AND parent.x = floor(cell.x / 2) AND parent.y = floor(cell.y / 2)
WHERE (parent.places IS NULL OR parent.places > 40) AND (cell.places <= 40 OR cell.side = 1000);
CREATE INDEX ON projected.grid USING gist (geom);
ANALYZE;
