CREATE FUNCTION is_inside(g geometry, half float8) RETURNS boolean LANGUAGE sql AS $$
    SELECT ST_XMin(g) >= -half - tolerance AND ST_XMax(g) <= half + tolerance
    FROM (SELECT CASE WHEN half = 180 THEN 5.7e-11 ELSE 0.009 END AS tolerance) AS t $$;
CREATE FUNCTION wrapped(g geometry, half float8) RETURNS geometry LANGUAGE sql AS $$
    SELECT CASE
        WHEN is_inside(g, half) THEN g
        WHEN ST_Dimension(g) = 2 THEN ST_UnaryUnion(ST_CollectionExtract(
            ST_WrapX(ST_WrapX(ST_CollectionExtract(ST_MakeValid(snapped), 3), half, -2 * half), -half, 2 * half), 3))
        ELSE ST_WrapX(ST_WrapX(snapped, half, -2 * half), -half, 2 * half) END
    FROM (SELECT ST_SnapToGrid(ST_Force2D(g), half / 1099511627776, 0) AS snapped) AS s $$;
CREATE FUNCTION clipped(g geometry, half float8) RETURNS geometry LANGUAGE sql AS $$
    SELECT CASE
        WHEN is_inside(g, half) THEN g
        WHEN ST_Dimension(g) = 2 THEN ST_UnaryUnion(ST_CollectionExtract(
            ST_ClipByBox2D(ST_CollectionExtract(ST_MakeValid(ST_Force2D(g)), 3), world), 3))
        ELSE ST_ClipByBox2D(ST_Force2D(g), world) END
    FROM (SELECT ST_MakeEnvelope(-side, -1e9, side, 1e9)::box2d AS world
        FROM (SELECT half + CASE WHEN half = 180 THEN 5.7e-11 ELSE 0.009 END / 2 AS side) AS b) AS w $$;
