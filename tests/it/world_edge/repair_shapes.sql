-- A shape of some kind near a position that `n` decides, in degrees. Kinds: 0 valid polygon, 1 bow-tie, 2 hole beyond its ring,
-- 3 parts that overlap, 4 polygon that jumps, 5 line that jumps, 6 ring around a pole, 7 line, 8 polygon without an area,
-- 9 bow-tie that jumps, 10 hole that touches its ring along an edge, 11 hole that jumps in a polygon that jumps. With `fine`, more vertices than 32 kB hold.
CREATE FUNCTION shape(kind int, n int, fine boolean) RETURNS geometry LANGUAGE sql AS $$
SELECT CASE
    WHEN kind IN (4, 5, 9, 11) THEN ST_ShiftLongitude(CASE WHEN fine THEN ST_Segmentize(s, 0.004) ELSE s END)
    WHEN kind = 6 AND fine THEN (SELECT ST_SetSRID(ST_MakePolygon(ST_AddPoint(line, ST_StartPoint(line))), 4326) FROM (
        SELECT ST_MakeLine(ST_MakePoint(-179.9 + a * 359.8 / 3000, side * (70.5 + sin(a))) ORDER BY a) AS line FROM generate_series(0, 3000) AS a) AS l)
    WHEN fine THEN ST_Segmentize(s, 0.004) ELSE s END
FROM (SELECT (n * 7919 % 34001) / 100.0 - 170 AS x, (n * 7907 % 13001) / 100.0 - 65 AS y, 1 + n % 5 AS w, CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END AS side) AS at,
LATERAL (SELECT ST_SetSRID(CASE kind
    WHEN 0 THEN ST_Buffer(ST_MakePoint(x, y), w, 3)
    WHEN 1 THEN ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(x, y), ST_MakePoint(x + w, y + w), ST_MakePoint(x + w, y), ST_MakePoint(x, y + w * 0.7), ST_MakePoint(x, y)]))
    WHEN 2 THEN ST_MakePolygon(ST_ExteriorRing(ST_MakeEnvelope(x, y, x + w, y + w)), ARRAY[ST_ExteriorRing(ST_MakeEnvelope(x + w * 0.6, y + 0.3, x + w * 1.7, y + 0.6))])
    WHEN 3 THEN ST_Collect(ST_MakeEnvelope(x, y, x + w, y + w), ST_Buffer(ST_MakePoint(x + w, y + w), w, 2))
    WHEN 4 THEN ST_Buffer(ST_MakePoint(180 + n % 3 - 1, y), 2.5 + n % 4, 3)
    WHEN 5 THEN ST_MakeLine(ARRAY[ST_MakePoint(175 + n % 4, y), ST_MakePoint(183, y + 2), ST_MakePoint(178, y + 3), ST_MakePoint(186, y + 4)])
    WHEN 6 THEN ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(-170, side * 62), ST_MakePoint(-60, side * 75), ST_MakePoint(60, side * (64 + w)), ST_MakePoint(172, side * 62.5), ST_MakePoint(-170, side * 62)]))
    WHEN 7 THEN ST_MakeLine(ST_MakePoint(x, y), ST_MakePoint(x + w, y + 1))
    WHEN 8 THEN ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(x, y), ST_MakePoint(x + 1, y + 1), ST_MakePoint(x, y), ST_MakePoint(x, y)]))
    WHEN 9 THEN ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(177, y), ST_MakePoint(184, y + w), ST_MakePoint(184, y), ST_MakePoint(177, y + w * 0.7), ST_MakePoint(177, y)]))
    WHEN 10 THEN ST_MakePolygon(ST_ExteriorRing(ST_MakeEnvelope(x, y, x + w, y + w)), ARRAY[ST_ExteriorRing(ST_MakeEnvelope(x, y + 0.2, x + w * 0.4, y + 0.6))])
    WHEN 11 THEN ST_MakePolygon(ST_ExteriorRing(ST_MakeEnvelope(170, y, 188, y + w + 2)), ARRAY[ST_ExteriorRing(ST_MakeEnvelope(175, y + 0.5, 184, y + 1.5))])
    END, 4326)) AS plain (s)
$$;
