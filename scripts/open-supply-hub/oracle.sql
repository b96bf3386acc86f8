-- What the map's two layers show of the rows that fulfil a condition on api_facilityindex, by statements written in another way than the program's: one tile at a
-- time, all in degrees; and facilities joined with real hexagons in degrees, whose corners are made in Web Mercator.
CREATE OR REPLACE FUNCTION oracle_facilities(z int, x int, y int, condition text) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    box geometry := ST_Transform(ST_TileEnvelope(z, x, y), 4326);
    tile bytea;
BEGIN
    EXECUTE format('SELECT ST_AsMVT(t, ''facilities'', 4096, ''geom'') FROM (
        SELECT ST_AsMVTGeom(location, $1, 4096, 1024, true) AS geom, id, name, address, $2 AS x, $3 AS y, $4 AS z FROM api_facilityindex
        WHERE ST_Within(location, ST_Expand($1, (ST_XMax($1) - ST_XMin($1)) * 0.2, (ST_YMax($1) - ST_YMin($1)) * 0.2)) AND (%s)
        ORDER BY id COLLATE "C") AS t WHERE geom IS NOT NULL', condition) INTO tile USING box, x, y, z;
    RETURN tile;
END $$;
CREATE OR REPLACE FUNCTION oracle_facilitygrid(z int, x int, y int, condition text) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE
    box geometry := ST_TileEnvelope(z, x, y);
    side float8 := 40075016.685578488 / (1 << z);
    -- The width of a hexagon, and its sides, in metres.
    w float8 := side / 8;
    s float8 := side / 8 / sqrt(3);
    tile bytea;
BEGIN
    EXECUTE format('WITH corner AS (
            SELECT (i + half) * $2 AS x, (j + half) * sqrt(3) * $2 AS y, i + half AS a, j + half AS b FROM (VALUES (0::float8), (0.5)) AS lattice (half),
                generate_series(floor(ST_XMin($1) / $2)::int - 2, ceil(ST_XMax($1) / $2)::int + 2) AS i,
                generate_series(floor(ST_YMin($1) / (sqrt(3) * $2))::int - 2, ceil(ST_YMax($1) / (sqrt(3) * $2))::int + 2) AS j
        ), hexagon AS (
            SELECT a, b, ST_SetSRID(ST_MakePoint(x, y + $3), 3857) AS middle, ST_SetSRID(ST_MakePolygon(ST_MakeLine(ARRAY[
                ST_MakePoint(x, y), ST_MakePoint(x + $2 / 2, y + $3 / 2), ST_MakePoint(x + $2 / 2, y + 1.5 * $3), ST_MakePoint(x, y + 2 * $3),
                ST_MakePoint(x - $2 / 2, y + 1.5 * $3), ST_MakePoint(x - $2 / 2, y + $3 / 2), ST_MakePoint(x, y)])), 3857) AS shape
            FROM corner
        ), filled AS (
            SELECT a, b, middle, shape, count(*) AS count FROM hexagon JOIN (
                SELECT location FROM api_facilityindex WHERE (%s)
                    AND location && ST_Transform(ST_Intersection(ST_Expand($1, $2 * 3), ST_MakeEnvelope(-20037508, -20037508, 20037508, 20037508, 3857)), 4326)
                OFFSET 0) AS facility ON ST_Contains(ST_Transform(shape, 4326), location)
            GROUP BY a, b, middle, shape
        ), cell AS (
            SELECT a, b, middle, count, ST_Transform(shape, 4326) AS shape FROM filled
        )
        SELECT ST_AsMVT(t, ''facilitygrid'', 4096, ''geom'') FROM (
            SELECT ST_AsMVTGeom(middle, $1, 4096, 256, true) AS geom, least(count, 100) AS count,
                ST_XMin(shape) AS xmin, ST_YMin(shape) AS ymin, ST_XMax(shape) AS xmax, ST_YMax(shape) AS ymax
            FROM cell WHERE ST_XMax(shape) - ST_XMin(shape) < 180 ORDER BY a, b) AS t WHERE geom IS NOT NULL', condition) INTO tile USING box, w, s;
    RETURN tile;
END $$
