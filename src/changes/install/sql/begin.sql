BEGIN READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL statement_timeout = 0;
-- Every later session queues behind one that waits for a table, and one that has queued for deadlock_timeout may be ended. If this ends with
-- "lock timeout", nothing was changed: run it again.
DO $oar_tiles$
BEGIN
    PERFORM set_config('lock_timeout', greatest(1, least(200, s.setting::int / 2))::text, true)
    FROM pg_settings AS s WHERE s.name = 'deadlock_timeout';
END
$oar_tiles$;
