-- The functions that are called once for each tile, one JSON object each. Their arguments are (z or zoom integer, x integer, y integer), or these and
-- a json, jsonb or text. They return bytea, or a row whose first column is bytea.
SELECT json_build_object(
    'schema', n.nspname,
    'name', p.proname,
    'is_visible', pg_function_is_visible(p.oid),
    'arguments', (
        SELECT json_agg(t.typname ORDER BY argument.place)
        FROM unnest(p.proargtypes) WITH ORDINALITY AS argument (type, place) JOIN pg_type AS t ON t.oid = argument.type)
)::text
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.prokind = 'f' AND p.pronargs IN (3, 4) AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND lower(p.proargnames[1]) IN ('z', 'zoom') AND lower(p.proargnames[2]) = 'x' AND lower(p.proargnames[3]) = 'y'
  AND p.proargtypes[0] IN (20, 23) AND p.proargtypes[1] IN (20, 23) AND p.proargtypes[2] IN (20, 23)
  AND (p.pronargs = 3 OR p.proargtypes[3] IN ('json'::regtype, 'jsonb'::regtype, 'text'::regtype))
  AND (p.prorettype = 'bytea'::regtype
      OR p.prorettype = 'record'::regtype AND 'bytea'::regtype = (
          SELECT type FROM unnest(p.proallargtypes, p.proargmodes) WITH ORDINALITY AS argument (type, mode, place)
          WHERE mode IN ('o', 't') ORDER BY place LIMIT 1))
  AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
ORDER BY n.nspname, p.proname, p.pronargs, p.oid
