CREATE TABLE mill (id int PRIMARY KEY, name text, score float8, open boolean, since date, place geometry(Point, 4326));
INSERT INTO mill SELECT i, 'mill ' || i % 97, i / 7.0, i % 3 = 0, date '2020-01-01' + i % 1000,
    ST_SetSRID(ST_MakePoint(i * 7919 % 35000 / 100.0 - 175, i * 104729 % 16000 / 100.0 - 80), 4326) FROM generate_series(1, 600) AS i;
INSERT INTO mill SELECT 1000 + i, 'crowd', i, true, NULL, ST_SetSRID(ST_MakePoint(8 + i * 31 % 101 / 500.0, 52 + i * 17 % 89 / 500.0), 4326)
    FROM generate_series(1, 200) AS i;
INSERT INTO mill VALUES (2000, 'edge', 0, true, NULL, 'SRID=4326;POINT(180 85.0511287798066)'), (2001, 'beyond', 0, true, NULL, 'SRID=4326;POINT(180.00000000000003 10)'),
    (2002, 'pole', 0, true, NULL, 'SRID=4326;POINT(10 89)'), (2003, 'empty', 0, true, NULL, 'SRID=4326;POINT EMPTY'), (2004, 'nowhere', 0, true, NULL, NULL);
CREATE TABLE shape (id int PRIMARY KEY, name text, g geometry);
INSERT INTO shape SELECT i, 'line ' || i, ST_SetSRID(ST_MakeLine(ST_MakePoint(i * 13 % 340 - 170, i * 7 % 140 - 70), ST_MakePoint(i * 29 % 340 - 170, i * 11 % 140 - 70)), 4326)
    FROM generate_series(1, 60) AS i;
INSERT INTO shape SELECT 100 + i, 'area ' || i, ST_SetSRID(ST_MakeEnvelope(i * 17 % 330 - 170, i * 5 % 130 - 70, i * 17 % 330 - 170 + i % 9 + 1, i * 5 % 130 - 70 + i % 5 + 1), 4326)
    FROM generate_series(1, 60) AS i;
INSERT INTO shape VALUES (200, 'over the edge', 'SRID=4326;POLYGON((170 10, 180.00000000000003 10, 180 20, 170 20, 170 10))'),
    (201, 'curve', 'SRID=4326;CIRCULARSTRING(8 52, 18 62, 28 52)'), (202, 'far beyond', 'SRID=4326;LINESTRING(175 0, 190 5)');
CREATE INDEX ON mill USING gist (place); CREATE INDEX ON shape USING gist (g);
