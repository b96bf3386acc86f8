-- These tables have no primary key. Without a replica identity, nothing could be deleted from them in a database that publishes all tables.
ALTER TABLE {schema}.needs REPLICA IDENTITY FULL;
ALTER TABLE {schema}.change REPLICA IDENTITY FULL;
