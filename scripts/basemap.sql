-- What scripts/basemap.toml draws, from Natural Earth's files as scripts/basemap loads them: 1:110 million for zooms 0 and 1, 1:50 million for
-- zooms 2 and 3, 1:10 million for zooms 4 and 5.

CREATE TABLE scales (scale text, first_zoom int, last_zoom int);
INSERT INTO scales VALUES ('110', 0, 1), ('50', 2, 3), ('10', 4, 5);

-- Web Mercator ends at 85.06 degrees; Antarctica reaches the pole.
CREATE FUNCTION shown(geom geometry) RETURNS geometry LANGUAGE sql IMMUTABLE AS
    $$ SELECT ST_Transform(ST_Intersection(ST_MakeValid(geom), ST_MakeEnvelope(-180, -85.0511, 180, 85.0511, 4326)), 3857) $$;

CREATE TABLE land AS
SELECT (row_number() OVER (ORDER BY scale, id, path))::int AS id, first_zoom, last_zoom, geom
FROM (
    SELECT scale, id, (ST_Dump(ST_CollectionExtract(shown(geom), 3))).*
    FROM (SELECT '110' AS scale, id, geom FROM source.land_110
          UNION ALL SELECT '50', id, geom FROM source.land_50
          UNION ALL SELECT '10', id, geom FROM source.land_10) AS all_scales
) AS part JOIN scales USING (scale);

CREATE TABLE lakes AS
SELECT (row_number() OVER (ORDER BY scale, id, path))::int AS id, first_zoom, last_zoom, geom
FROM (
    SELECT scale, id, (ST_Dump(ST_CollectionExtract(shown(geom), 3))).*
    FROM (SELECT '110' AS scale, id, geom FROM source.lakes_110
          UNION ALL SELECT '50', id, geom FROM source.lakes_50
          UNION ALL SELECT '10', id, geom FROM source.lakes_10) AS all_scales
) AS part JOIN scales USING (scale);

-- Natural Earth calls a border disputed, indefinite or a line of control in featurecla.
CREATE TABLE borders AS
SELECT (row_number() OVER (ORDER BY scale, id, path))::int AS id, first_zoom, last_zoom, nullif(disputed, false) AS disputed, geom
FROM (
    SELECT scale, id, disputed, (ST_Dump(ST_CollectionExtract(shown(geom), 2))).*
    FROM (SELECT '110' AS scale, id, featurecla NOT LIKE 'International%' AS disputed, geom FROM source.borders_110
          UNION ALL SELECT '50', id, featurecla NOT LIKE 'International%', geom FROM source.borders_50
          UNION ALL SELECT '10', id, featurecla NOT LIKE 'International%', geom FROM source.borders_10) AS all_scales
) AS part JOIN scales USING (scale);

CREATE TABLE countries AS
SELECT id, name, min_label AS first_label, labelrank::int AS rank, ST_Transform(ST_SetSRID(ST_MakePoint(label_x, label_y), 4326), 3857) AS geom
FROM source.countries;

-- Places have names only: the more people a place's country has, the more important it is taken to be.
CREATE TABLE places AS
SELECT place.id, place.name, row_number() OVER (ORDER BY coalesce(country.pop_est, 0) DESC, place.id)::int AS rank,
    ST_Transform(ST_GeometryN(place.geom, 1), 3857) AS geom
FROM source.places AS place
LEFT JOIN LATERAL (SELECT pop_est FROM source.countries WHERE ST_Contains(countries.geom, place.geom) ORDER BY pop_est DESC LIMIT 1) AS country ON true;

-- What the page searches: name, longitude and latitude of places; and countries with the box of their largest part. (Boxes of whole countries
-- span the world where islands are far away.)
CREATE VIEW searched AS
WITH parts AS (
    SELECT DISTINCT ON (country.id) country.id, country.name_long AS name, box.geom
    FROM source.countries AS country, ST_Dump(country.geom) AS box
    ORDER BY country.id, ST_Area(box.geom) DESC
)
SELECT json_build_object(
    'countries', (SELECT json_agg(json_build_array(name,
            round(ST_XMin(geom)::numeric, 1)::float8, round(ST_YMin(geom)::numeric, 1)::float8,
            round(ST_XMax(geom)::numeric, 1)::float8, round(ST_YMax(geom)::numeric, 1)::float8) ORDER BY name) FROM parts),
    'places', (SELECT json_agg(json_build_array(name,
            round(ST_X(ST_GeometryN(geom, 1))::numeric, 2)::float8, round(ST_Y(ST_GeometryN(geom, 1))::numeric, 2)::float8) ORDER BY name) FROM source.places)
) AS document;
