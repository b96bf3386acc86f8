-- The log is ahead of this database: it came from a dump of another server, or somebody wrote to it. Its entries are worthless, and targets that
-- followed the old log must not count as following the new one.
ALTER TABLE {schema}.state ADD COLUMN IF NOT EXISTS identity_key text;
WITH gone AS (DELETE FROM {schema}.change RETURNING xid)
UPDATE {schema}.state SET identity_key = NULL,
    pruned = coalesce((SELECT xid FROM gone WHERE xid < pg_current_xact_id() ORDER BY xid DESC LIMIT 1), '0');
