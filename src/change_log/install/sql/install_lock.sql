-- One install at a time.
DO $oar_tiles$
DECLARE
    holders  text;
BEGIN
    IF NOT pg_try_advisory_xact_lock({class}, {object}) THEN
        SELECT string_agg(coalesce(format('process %s (%s)', l.pid,
                concat_ws(', ', nullif(a.application_name, ''), 'role ' || a.usename)), 'a prepared transaction'), ' and ') INTO holders
        FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {class} AND l.objid = {object} AND l.objsubid = 2
          AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database());
        RAISE EXCEPTION '% holds the advisory lock ({class}, {object})', coalesce(holders, 'nobody any more') USING ERRCODE = '{taken}';
    END IF;
END
$oar_tiles$;
