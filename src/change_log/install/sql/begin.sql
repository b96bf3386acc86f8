BEGIN READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL statement_timeout = 0;
-- While this waits for a table, every later session queues behind it, and after deadlock_timeout one of them may be ended. If this ends with "lock
-- timeout", nothing was changed: run it again.
DO $oar_tiles$
BEGIN
    PERFORM set_config('lock_timeout', greatest(1, least(200, s.setting::int / 2))::text, true)
    FROM pg_settings AS s WHERE s.name = 'deadlock_timeout';
    -- transaction_timeout came with PostgreSQL 17.
    PERFORM set_config(s.name, '0', true)
    FROM pg_settings AS s WHERE s.name IN ('transaction_timeout', 'idle_in_transaction_session_timeout');
END
$oar_tiles$;
