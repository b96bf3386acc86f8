CREATE TABLE odd_4326 (id int PRIMARY KEY, kind text, "Odd ""name""." float8, g geometry);
INSERT INTO odd_4326 SELECT row_number() OVER (), kind, random(), ST_SetSRID(wkt::geometry, 4326) FROM (VALUES
    ('point', 'POINT(8.05 52.27)'), ('same point', 'POINT(8.05 52.27)'), ('on a tile border', 'POINT(0 0)'),
    ('multipoint', 'MULTIPOINT((8 52), (8.2 52.3), (9 53))'), ('empty', 'POINT EMPTY'), ('empty polygon', 'POLYGON EMPTY'),
    ('line', 'LINESTRING(7.5 52, 8.5 52.6, 8.4 52.1)'), ('long line', 'LINESTRING(-3 51, 11 54)'),
    ('multiline', 'MULTILINESTRING((8 52, 8.1 52.1), (8.3 52.2, 8.4 52.4))'),
    ('polygon with holes', 'POLYGON((7 51, 9 51, 9 53, 7 53, 7 51), (7.5 51.5, 8.5 51.5, 8.5 52.5, 7.5 52.5, 7.5 51.5), (8.6 52.6, 8.9 52.6, 8.9 52.9, 8.6 52.6))'),
    ('multipolygon', 'MULTIPOLYGON(((8 52, 8.01 52, 8.01 52.01, 8 52)), ((8.5 52.5, 8.6 52.5, 8.6 52.6, 8.5 52.5)))'),
    ('bow tie', 'POLYGON((8 52, 8.4 52.4, 8.4 52, 8 52.4, 8 52))'),
    ('wound twice', 'POLYGON((8 52, 8.6 52, 8.6 52.6, 8 52.6, 8 52, 8.1 52.05, 8.5 52.05, 8.5 52.5, 8.1 52.5, 8.1 52.05, 8 52))'),
    ('sliver', 'POLYGON((8 52, 8.5 52.0000001, 8.5 52, 8 52))'),
    ('collection', 'GEOMETRYCOLLECTION(POINT(8 52), LINESTRING(8 52, 8.1 52.2), POLYGON((8.2 52.2, 8.3 52.2, 8.3 52.3, 8.2 52.2)))'),
    ('curve', 'CIRCULARSTRING(8 52, 8.2 52.3, 8.4 52)'), ('compound curve', 'COMPOUNDCURVE((7.9 52, 8 52), CIRCULARSTRING(8 52, 8.05 52.05, 8.1 52))'),
    ('curve polygon', 'CURVEPOLYGON(CIRCULARSTRING(8 52, 8.2 52.2, 8.4 52, 8.2 51.8, 8 52))'),
    ('with z', 'LINESTRING Z (8 52 1, 8.1 52.1 2)'), ('with m', 'POINT M (8.3 52.1 7)'), ('with zm', 'POINT ZM (8.3 52.1 7 8)'),
    ('null', NULL)
) AS odd (kind, wkt);
INSERT INTO odd_4326 SELECT 100 + i, 'scattered', i, ST_SetSRID(ST_MakePoint(8 + (i * 37 % 101) / 200.0, 52 + (i * 53 % 103) / 200.0), 4326) FROM generate_series(1, 300) AS i;
CREATE INDEX ON odd_4326 USING gist (g);
