-- All tables are locked before anything else. The first locks do not block writers: waiting for deadlock_timeout in this mode ends an autovacuum that
-- works on a table (PostgreSQL documentation, section 25.1.6). The second locks block writers. All of these together take at most the time of one
-- wait, so that this no longer waits when a session that has queued behind it looks for a deadlock.
DO $oar_tiles$
DECLARE
    longest  int := (SELECT s.setting::int FROM pg_settings AS s WHERE s.name = 'lock_timeout');
    ends     timestamptz;
    one      record;
BEGIN
    PERFORM set_config('lock_timeout', (s.setting::int / 2 * 3 + 1)::text, true) FROM pg_settings AS s WHERE s.name = 'deadlock_timeout';
    FOR one IN {targets} LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', one.called);
    END LOOP;
    ends := clock_timestamp() + longest * interval '1 millisecond';
    FOR one IN {targets} LOOP
        PERFORM set_config('lock_timeout', greatest(1, ceil(extract(epoch FROM ends - clock_timestamp()) * 1000)::int)::text, true);
        EXECUTE format('LOCK TABLE %s IN %s MODE', one.called, one.mode);
    END LOOP;
    PERFORM set_config('lock_timeout', longest::text, true);
END
$oar_tiles$;
