-- Databases of other people. Each part begins with a line "-- part NAME".

-- part natural_earth
CREATE TABLE ne_countries (ogc_fid serial PRIMARY KEY, "NAME" varchar, "POP_EST" numeric(20, 2), wkb_geometry geometry(Geometry, 4326));
INSERT INTO ne_countries ("NAME", "POP_EST", wkb_geometry)
SELECT 'country ' || i, i * 1000.5, CASE WHEN i % 2 = 0 THEN cell ELSE ST_Multi(cell) END
FROM generate_series(1, 40) AS i, LATERAL (SELECT ST_Buffer(ST_SetSRID(ST_MakePoint(i * 8 - 164, (i * 37) % 120 - 60), 4326), 3, 4) AS cell) AS made;
CREATE INDEX ON ne_countries USING gist (wkb_geometry);
CREATE TABLE ne_rivers (gid serial PRIMARY KEY, name text, geom geometry(MultiLineString, 3857));
INSERT INTO ne_rivers (name, geom)
SELECT 'river ' || i, ST_Multi(ST_SetSRID(ST_MakeLine(ST_MakePoint(i * 100000, 0), ST_MakePoint(i * 120000, 900000)), 3857)) FROM generate_series(1, 50) AS i;
-- As shp2pgsql loads without -s.
CREATE TABLE ne_places (gid serial PRIMARY KEY, name text, pop int, geom geometry(Point));
INSERT INTO ne_places (name, pop, geom) SELECT 'place ' || i, i, ST_MakePoint(i % 360 - 180, i % 160 - 80) FROM generate_series(1, 3000) AS i;
CREATE TABLE ne_mixed (gid serial PRIMARY KEY, geom geometry);
INSERT INTO ne_mixed (geom) VALUES
    ('SRID=4326;POINT(1 1)'), ('SRID=4326;LINESTRING(0 0, 9 9)'), ('SRID=4326;POLYGON((0 0, 4 0, 4 4, 0 0))'),
    ('SRID=4326;GEOMETRYCOLLECTION(POINT(2 2), LINESTRING(3 3, 4 4))'), ('SRID=4326;MULTIPOINT(5 5, 6 6)'), (NULL), ('SRID=4326;POLYGON EMPTY');
CREATE TABLE os_sites (id int PRIMARY KEY, geom geometry(PointZ, 27700));
INSERT INTO os_sites SELECT i, ST_SetSRID(ST_MakePoint(530000 + i, 180000 + i, i), 27700) FROM generate_series(1, 20) AS i;
CREATE TABLE two_systems (id int PRIMARY KEY, geom geometry);
INSERT INTO two_systems VALUES (1, 'SRID=4326;POINT(1 1)'), (2, 'SRID=3857;POINT(200000 200000)');
CREATE TABLE empty_table (id int PRIMARY KEY, geom geometry(Polygon, 4326));

-- part django
CREATE TYPE status AS ENUM ('open', 'closed');
CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
CREATE TABLE auth_user (id bigserial PRIMARY KEY, username varchar(150) NOT NULL);
INSERT INTO auth_user (username) SELECT 'user ' || i FROM generate_series(1, 3) AS i;
CREATE TABLE places_place (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), owner_id bigint REFERENCES auth_user (id), "Größe in m²" numeric(10, 2), "select" text,
    tags jsonb, raw json, codes int[], names text[], state status, share percent, photo bytea, search tsvector, valid daterange,
    created timestamptz DEFAULT '2020-01-01', open_from time, ip inet, "point_count" int, spot point,
    location geometry(Point, 4326) NOT NULL, outline geometry(MultiPolygon, 4326), reach geography(Polygon, 4326));
INSERT INTO places_place (owner_id, "Größe in m²", "select", tags, raw, codes, names, state, share, photo, search, valid, point_count, location, outline, reach)
SELECT i % 3 + 1, i + 0.25, 'it''s "' || i || '"', jsonb_build_object('a', i), json_build_object('b', i), ARRAY[i], ARRAY['x', 'y'], 'open', i % 100,
    '\x00', to_tsvector('simple', 'mill'), daterange('2020-01-01', '2021-01-01'), i, place, ST_Multi(ST_Buffer(place, 0.01, 2)), ST_Buffer(place, 0.02, 2)::geography
FROM generate_series(1, 1500) AS i, LATERAL (SELECT ST_SetSRID(ST_MakePoint(8 + i * 0.001, 47 + (i * 7 % 1000) * 0.001), 4326) AS place) AS made;
CREATE INDEX ON places_place USING gist (location);
CREATE VIEW places_with_owner AS SELECT p.id, p.state, u.username, p.location FROM places_place AS p JOIN auth_user AS u ON u.id = p.owner_id;

-- part martin
CREATE SCHEMA "MixedCase";
CREATE TABLE "MixedCase"."MixPoints" ("Gid" serial PRIMARY KEY, "TABLE" text, "Geom" geometry(Point, 4326));
INSERT INTO "MixedCase"."MixPoints" ("TABLE", "Geom") SELECT 'row ' || i, ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 30) AS i;
CREATE TABLE table_source (gid serial NOT NULL, geom geometry(Geometry, 4326));
INSERT INTO table_source (geom) SELECT ST_SetSRID(ST_MakePoint(i, -i), 4326) FROM generate_series(1, 20) AS i;
CREATE TABLE no_key (name text, geom geometry(Point, 900913));
INSERT INTO no_key SELECT 'twin', ST_SetSRID(ST_MakePoint(i / 2 * 100000, 0), 900913) FROM generate_series(1, 20) AS i;
INSERT INTO no_key SELECT 'same', 'SRID=900913;POINT(500000 500000)' FROM generate_series(1, 3);
CREATE INDEX ON no_key USING gist (geom);
CREATE TABLE points1 (gid serial PRIMARY KEY, geom geometry(Point, 4326));
INSERT INTO points1 (geom) SELECT ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 30) AS i;
CREATE VIEW points1_vw AS SELECT * FROM points1 WHERE gid > 5;
CREATE MATERIALIZED VIEW points1_mv AS SELECT gid, geom FROM points1;
CREATE MATERIALIZED VIEW never_filled AS SELECT gid, geom FROM points1 WITH NO DATA;
CREATE VIEW only_places AS SELECT name, geom FROM no_key;
CREATE TABLE geographies (id int PRIMARY KEY, geog geography(Point, 4326));
INSERT INTO geographies SELECT i, ST_MakePoint(i, i)::geography FROM generate_series(1, 9) AS i;
CREATE TABLE parts (id int, day date, geom geometry(Point, 4326), PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE parts_2020 PARTITION OF parts FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
INSERT INTO parts SELECT i, '2020-05-05', ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 9) AS i;
CREATE SCHEMA other;
CREATE TABLE other.points1 (id int PRIMARY KEY, geom geometry(Point, 4326));
INSERT INTO other.points1 VALUES (1, 'SRID=4326;POINT(1 1)');
CREATE TABLE "line
[[layer]] '''"" # ${HOME}" (id int PRIMARY KEY, "a ""b"" 'c' \ ${x} !zoom!" text, geom geometry(Point, 4326));
INSERT INTO "line
[[layer]] '''"" # ${HOME}" VALUES (1, 'x', 'SRID=4326;POINT(1 1)');
CREATE TABLE unknown_system (id int PRIMARY KEY, geom geometry(Point));
INSERT INTO unknown_system VALUES (1, ST_MakePoint(500000, 180000));
CREATE VIEW breaks AS SELECT gid, 1 / (gid - gid) AS never, geom FROM points1;
CREATE VIEW breaks_everywhere AS SELECT gid, ST_Buffer(geom, 1 / (gid - gid)) AS geom FROM points1;
-- part osm2pgsql
-- As osm2pgsql's default style makes it: a column for each tag, no key, metres.
DO $$
DECLARE
    tags text[] := ARRAY['access', 'addr:housename', 'addr:housenumber', 'addr:interpolation', 'admin_level', 'aerialway', 'aeroway', 'amenity', 'area',
        'barrier', 'bicycle', 'brand', 'bridge', 'boundary', 'building', 'capital', 'construction', 'covered', 'culvert', 'cutting', 'denomination',
        'disused', 'ele', 'embankment', 'foot', 'generator:source', 'harbour', 'highway', 'historic', 'horse', 'intermittent', 'junction', 'landuse',
        'layer', 'leisure', 'lock', 'man_made', 'military', 'motorcar', 'name', 'natural', 'office', 'oneway', 'operator', 'place', 'population',
        'power', 'power_source', 'public_transport', 'railway', 'ref', 'religion', 'route', 'service', 'shop', 'sport', 'surface', 'toll', 'tourism',
        'tower:type', 'tunnel', 'water', 'waterway', 'wetland', 'width', 'wood'];
BEGIN
    EXECUTE 'CREATE TABLE planet_osm_point (osm_id int8, '
        || (SELECT string_agg(format('%I text', tag), ', ') FROM unnest(tags) AS tag) || ', z_order int4, tags jsonb, way geometry(Point, 3857))';
END $$;
INSERT INTO planet_osm_point (osm_id, amenity, name, shop, highway, tags, way)
SELECT i, CASE WHEN i % 2 = 0 THEN 'bench' END, CASE WHEN i % 10 = 0 THEN 'name ' || i END, CASE WHEN i % 3 = 0 THEN 'bakery' END,
    CASE WHEN i % 5 = 0 THEN 'crossing' END, '{"source": "survey"}', ST_SetSRID(ST_MakePoint(950000 + i * 40, 6000000 + i * 7919 % 30000), 3857)
FROM generate_series(1, 2500) AS i;
CREATE INDEX ON planet_osm_point USING gist (way);
CREATE TABLE planet_osm_line (osm_id int8, name text, way geometry(LineString, 3857));
INSERT INTO planet_osm_line
SELECT i, 'way ' || i, ST_SetSRID(ST_MakeLine(ST_MakePoint(950000 + i * 400, 6000000), ST_MakePoint(950300 + i * 400, 6000900)), 3857)
FROM generate_series(1, 40) AS i;
CREATE INDEX ON planet_osm_line USING gist (way);
CREATE TABLE planet_osm_roads AS SELECT * FROM planet_osm_line WHERE osm_id < 10;
CREATE INDEX ON planet_osm_roads USING gist (way);
