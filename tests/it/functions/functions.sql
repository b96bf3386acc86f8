-- Functions as other tile servers call them, over one table of points.
CREATE TABLE place (id int PRIMARY KEY, kind text NOT NULL, g geometry(Point, 4326) NOT NULL);
INSERT INTO place SELECT n, (ARRAY['mill', 'farm', 'shop'])[1 + n % 3],
    ST_SetSRID(ST_MakePoint(-170 + (n * 7919) % 340, -70 + (n * 104729) % 140), 4326) FROM generate_series(1, 300) AS n;
CREATE INDEX ON place USING gist (g);

CREATE FUNCTION places(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ST_AsMVT(t, 'places') FROM (
        SELECT id, kind, ST_AsMVTGeom(ST_Transform(g, 3857), ST_TileEnvelope(z, x, y), 4096, 64) AS geom
        FROM place WHERE ST_Transform(g, 3857) && ST_TileEnvelope(z, x, y, margin => 64 / 4096.0) ORDER BY id) AS t
    WHERE geom IS NOT NULL $$;
COMMENT ON FUNCTION places(int, int, int) IS '{"description": "Places of work", "attribution": "the town", "vector_layers":
    [{"id": "places", "description": "One a row", "minzoom": 0, "maxzoom": 22, "fields": {"id": "Number", "kind": "String"}}]}';

-- What it gives depends on what it is called with.
CREATE FUNCTION places_of(z bigint, x bigint, y bigint, query json) RETURNS TABLE (mvt bytea, hash text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY SELECT ST_AsMVT(t, 'places'), 'etag' FROM (
        SELECT id, ST_AsMVTGeom(ST_Transform(g, 3857), ST_TileEnvelope(z::int, x::int, y::int)) AS geom
        FROM place WHERE kind = query->>'kind' OR query->>'kind' IS NULL) AS t WHERE geom IS NOT NULL HAVING count(*) > 0;
END $$;

-- The same name with other arguments, one of them no function of tiles.
CREATE FUNCTION two(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT places(z, x, y) $$;
CREATE FUNCTION two(z int, x int, y int, query jsonb) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT mvt FROM places_of(z, x, y, query::json) $$;
CREATE FUNCTION two(name text) RETURNS text LANGUAGE sql AS $$ SELECT name $$;
CREATE FUNCTION same(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT places(z, x, y) $$;
CREATE FUNCTION same(z bigint, x bigint, y bigint) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT NULL::bytea $$;

CREATE SCHEMA "Odd Ones";
CREATE FUNCTION "Odd Ones"."Tile.Of $it"(zoom int, x int, y int, OUT bytes bytea) LANGUAGE sql STABLE AS $$ SELECT places(zoom, x, y) $$;

-- Other ways to write the same: columns of a row, arguments of other names or of none, with a default, a name with capitals.
CREATE FUNCTION tabled(z int, x int, y int) RETURNS TABLE (mvt bytea) LANGUAGE sql STABLE AS $$ SELECT places(z, x, y) $$;
CREATE FUNCTION keyed(z int, x int, y int, OUT mvt bytea, OUT key text) LANGUAGE sql STABLE AS $$ SELECT places(z, x, y), 'k' || z $$;
CREATE FUNCTION by_text(z int, x int, y int, query text) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT mvt FROM places_of(z, x, y, query::json) $$;
CREATE FUNCTION unnamed(int, int, int) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT places($1, $2, $3) $$;
CREATE FUNCTION otherwise(level int, col int, line int, params jsonb DEFAULT '{"kind": "farm"}') RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT mvt FROM places_of(level, col, line, params::json) $$;
CREATE FUNCTION "mixedCase"(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT places(z, x, y) $$;

-- Tiles that are nothing in each way that there is: NULL, no bytes, a row of NULLs, no row.
CREATE FUNCTION nothing(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT CASE (x + y) % 3 WHEN 0 THEN places(z, x, y) WHEN 1 THEN ''::bytea END $$;
CREATE FUNCTION no_row(z int, x int, y int) RETURNS TABLE (mvt bytea, key text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    CASE (x + y) % 3
        WHEN 0 THEN RETURN QUERY SELECT places(z, x, y), 'k';
        WHEN 1 THEN RETURN QUERY SELECT NULL::bytea, NULL::text;
        ELSE RETURN;
    END CASE;
END $$;

-- One name in two schemas.
CREATE SCHEMA other;
CREATE FUNCTION other.places(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT public.tabled(z, x, y) WHERE z < 3 $$;

-- What cannot be stored.
CREATE FUNCTION broken(z int, x int, y int, query jsonb) RETURNS SETOF bytea LANGUAGE plpgsql AS $$
BEGIN
    IF z = 2 AND x = 1 AND y = 1 THEN
        CASE query->>'how'
            WHEN 'raise' THEN RAISE EXCEPTION 'no tile here';
            WHEN 'png' THEN RETURN NEXT '\x89504e470d0a1a0a'::bytea;
            WHEN 'twice' THEN RETURN NEXT ''::bytea; RETURN NEXT places(z, x, y);
            WHEN 'slow' THEN PERFORM pg_sleep(60);
            ELSE RETURN NEXT 'no tile'::bytea;
        END CASE;
    ELSE
        RETURN NEXT places(z, x, y);
    END IF;
END $$;
CREATE FUNCTION raster(z int, x int, y int) RETURNS bytea LANGUAGE sql STABLE AS $$ SELECT ''::bytea $$;
COMMENT ON FUNCTION raster(int, int, int) IS '{"content_type": "image/png"}';
