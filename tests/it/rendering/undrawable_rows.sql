CREATE TABLE points (id int PRIMARY KEY, g geometry(Point, 4326));
INSERT INTO points VALUES
    (1, 'SRID=4326;POINT(8 52)'), (2, 'SRID=4326;POINT(180 85.05)'), (3, 'SRID=4326;POINT(-180 -85.051)'),
    (10, NULL), (11, NULL), (12, NULL), (13, NULL), (20, 'SRID=4326;POINT EMPTY'),
    (30, ST_SetSRID(ST_MakePoint('NaN', 52), 4326)), (31, ST_SetSRID(ST_MakePoint(8, 'Infinity'), 4326)),
    (32, ST_SetSRID(ST_MakePoint('-Infinity', 'NaN'), 4326)),
    (40, 'SRID=4326;POINT(8 85.0512)'), (41, 'SRID=4326;POINT(8 -86)'), (42, 'SRID=4326;POINT(8 90)'),
    (43, 'SRID=4326;POINT(8 91)'), (44, 'SRID=4326;POINT(180.001 0)'), (45, 'SRID=4326;POINT(-190 0)'),
    (46, 'SRID=4326;POINT(1e300 0)');
CREATE INDEX ON points USING gist (g);

CREATE TABLE shapes (id int PRIMARY KEY, g geometry);
INSERT INTO shapes VALUES
    (1, 'SRID=4326;LINESTRING(8 52, 9 53)'), (2, 'SRID=4326;POLYGON((-180 -90, 180 -90, 180 -70, 0 -60, -180 -70, -180 -90))'),
    (3, 'SRID=4326;LINESTRING(8 80, 9 88)'), (4, 'SRID=4326;MULTIPOINT Z ((8 52 NaN), (9 52 1))'),
    (5, 'SRID=4326;GEOMETRYCOLLECTION(POINT(1 1), LINESTRING(1 1, 2 2))'), (6, 'SRID=4326;POINT(7 7)'),
    (10, NULL), (20, 'SRID=4326;POLYGON EMPTY'), (21, 'SRID=4326;GEOMETRYCOLLECTION EMPTY'), (22, 'SRID=4326;MULTIPOINT EMPTY'),
    (30, ST_SetSRID(ST_MakePoint('NaN', 52), 4326)),
    (31, ST_SetSRID(ST_MakeLine(ARRAY[ST_MakePoint(1, 1), ST_MakePoint('NaN', 'NaN'), ST_MakePoint(3, 3)]), 4326)),
    (32, ST_SetSRID(ST_MakeLine(ST_MakePoint(1, 1), ST_MakePoint('Infinity', 2)), 4326)),
    (33, ST_SetSRID(ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(1, 1), ST_MakePoint(2, 'NaN'), ST_MakePoint(3, 3), ST_MakePoint(1, 1)])), 4326)),
    (34, ST_SetSRID(ST_Collect(ARRAY[ST_MakePoint(1, 1), ST_MakePoint('NaN', 2), ST_MakePoint(3, 3)]), 4326)),
    (35, ST_SetSRID(ST_Collect(ST_MakePoint(1, 1), ST_MakeLine(ST_MakePoint(1, 1), ST_MakePoint(2, '-Infinity'))), 4326)),
    (36, ST_SetSRID(ST_Collect(ST_MakePoint('NaN', 'NaN'), ST_MakeLine(ST_MakePoint(1, 1), ST_MakePoint(2, 2))), 4326)),
    (40, 'SRID=4326;LINESTRING(8 86, 9 88)'), (41, 'SRID=4326;LINESTRING(8 80, 9 91)'), (42, 'SRID=4326;LINESTRING(179 0, 181 1)'),
    (43, 'SRID=4326;POLYGON((-181 0, -180 0, -180 1, -181 0))'), (44, 'SRID=4326;MULTIPOINT((8 52), (8 -90.1))');
CREATE INDEX ON shapes USING gist (g);

CREATE TABLE metres (id int PRIMARY KEY, g geometry(Geometry, 3857));
INSERT INTO metres VALUES
    (1, 'SRID=3857;POINT(1000 2000)'), (2, 'SRID=3857;LINESTRING(0 0, 3e7 3e7)'),
    (10, NULL), (20, 'SRID=3857;LINESTRING EMPTY'),
    (30, ST_SetSRID(ST_MakePoint('NaN', 'NaN'), 3857)), (31, ST_SetSRID(ST_MakeLine(ST_MakePoint(0, 0), ST_MakePoint('Infinity', 0)), 3857)),
    (40, 'SRID=3857;POINT(2.1e7 0)'), (41, 'SRID=3857;LINESTRING(2.1e7 0, 2.2e7 5)'), (42, 'SRID=3857;POINT(0 1e200)');
CREATE INDEX ON metres USING gist (g);

CREATE TABLE north (id int PRIMARY KEY, west float8, m geometry(Point, 25832));
INSERT INTO north VALUES (1, 1, 'SRID=25832;POINT(400000 5800000)'), (10, 2, NULL), (20, 3, 'SRID=25832;POINT EMPTY'),
    (30, 4, ST_SetSRID(ST_MakePoint('NaN', 5800000), 25832)), (31, 5, ST_SetSRID(ST_MakePoint(400000, '-Infinity'), 25832));
CREATE INDEX ON north USING gist (m);

CREATE TABLE globe (id int PRIMARY KEY, g geography);
INSERT INTO globe VALUES (1, 'POINT(8 52)'), (2, 'LINESTRING(8 52, 9 53)'), (10, NULL), (20, 'POINT EMPTY'), (40, 'POINT(8 86)');
CREATE INDEX ON globe USING gist (g);
