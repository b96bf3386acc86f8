-- Objects in the log's schema that are neither tables of the log nor its trigger functions: their kind, and their name with the schema, quoted.
SELECT upper(o.type), o.identity
FROM pg_namespace AS n
JOIN pg_depend AS d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid AND d.deptype = 'n'
CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) AS o
WHERE n.nspname = {name}
  AND NOT (d.classid = 'pg_class'::regclass AND EXISTS (
      SELECT FROM pg_class AS c WHERE c.oid = d.objid AND c.relkind = 'r' AND c.relname IN ({tables})))
  AND NOT (d.classid = 'pg_proc'::regclass AND d.objid IN (SELECT w.noter FROM {schema}.watch AS w))
ORDER BY o.type DESC, o.identity
