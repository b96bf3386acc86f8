CREATE TABLE facility AS SELECT id, ST_Transform(location, 3857) AS m FROM api_facility;
CREATE TABLE hexagon AS
WITH step AS (SELECT z, 40075016.685578488 / (1 << z) / 8 AS w FROM generate_series(1, 11) AS z),
-- The lowest corners: two lattices, of which we need those around the facilities.
corner AS (
    SELECT DISTINCT z, w, (i + half) * w AS x, (j + half) * sqrt(3) * w AS y FROM step, facility,
        generate_series(floor(ST_X(m) / w)::int - 1, floor(ST_X(m) / w)::int + 1) AS i,
        generate_series(floor(ST_Y(m) / (sqrt(3) * w))::int - 1, floor(ST_Y(m) / (sqrt(3) * w))::int + 1) AS j,
        (VALUES (0::float8), (0.5)) AS lattice (half)
),
-- A regular hexagon of the width w has sides of w / √3, and its side corners a half and one and a half of that above its lowest.
drawn AS (
    SELECT z, w, x, y, w / sqrt(3) AS s FROM corner
)
SELECT z, ST_SetSRID(ST_MakePoint(x, y + s), 3857) AS middle, ST_SetSRID(ST_MakePolygon(ST_MakeLine(ARRAY[
    ST_MakePoint(x, y), ST_MakePoint(x + w / 2, y + s / 2), ST_MakePoint(x + w / 2, y + 1.5 * s), ST_MakePoint(x, y + 2 * s),
    ST_MakePoint(x - w / 2, y + 1.5 * s), ST_MakePoint(x - w / 2, y + s / 2), ST_MakePoint(x, y)])), 3857) AS shape
FROM drawn;
CREATE INDEX ON facility USING gist (m); ANALYZE facility;
CREATE TABLE filled AS
SELECT z, middle, count(*) AS count, ST_Transform(shape, 4326) AS shape
FROM hexagon JOIN facility ON ST_Intersects(shape, m) GROUP BY z, middle, shape;
CREATE TABLE cell AS
SELECT z, middle, count, ST_XMin(shape) AS west, ST_YMin(shape) AS south, ST_XMax(shape) AS east, ST_YMax(shape) AS north,
    ST_XMax(shape) - ST_XMin(shape) >= 180 AS is_left_out
FROM filled;
CREATE INDEX ON cell USING gist (middle); ANALYZE cell
