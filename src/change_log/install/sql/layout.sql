-- One row. Entries of transactions up to "pruned" may be gone. "installs" counts the installs that changed the tables below. Ids of watches are never
-- reused. "owner" owns the trigger functions; NULL: the owner of each table does.
CREATE TABLE {schema}.state (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    layout         int4 NOT NULL,
    installs       int8 NOT NULL DEFAULT 0,
    last_watch     int4 NOT NULL DEFAULT 0,
    pruned         xid8 NOT NULL DEFAULT '0',
    owner          text,
    owner_is_made  boolean NOT NULL DEFAULT false    -- an install made the role, and a removal drops it
);
COMMENT ON TABLE {schema}.state IS 'oar-tiles change log';
INSERT INTO {schema}.state (layout) VALUES ({layout});

-- What is logged about each table: the positions of its rows, from a geometry column or from a query over the changed row.
CREATE TABLE {schema}.watch (
    id             int4 PRIMARY KEY,
    relation       oid NOT NULL,
    name           text NOT NULL,      -- schema and table, quoted, at the install
    geometry       text,               -- the column; NULL if a query gives the positions
    query          text,               -- evaluated when the log is read, never by the writer
    logged         text[] NOT NULL,    -- the columns that the query refers to
    key            text[] NOT NULL,    -- the columns that pair an old row with its new version; empty: all watched columns
    truncate_rows  int8 NOT NULL,      -- a TRUNCATE of more rows is logged as "everything"
    noter          oid NOT NULL,       -- the trigger function
    noter_xmin     xid NOT NULL,
    since          xid8 NOT NULL,      -- the transaction that completed the triggers on this set of tables
    CHECK ((geometry IS NULL) <> (query IS NULL))
);

-- The columns whose changes are logged.
CREATE TABLE {schema}.watched (
    watch           int4 NOT NULL REFERENCES {schema}.watch ON DELETE CASCADE,
    column_name     text NOT NULL,
    attnum          int2 NOT NULL,
    attribute_xmin  xid NOT NULL,
    since           xid8 NOT NULL,
    PRIMARY KEY (watch, column_name)
);

-- The table, its partitions, children and parents: each has the triggers.
CREATE TABLE {schema}.member (
    watch     int4 NOT NULL REFERENCES {schema}.watch ON DELETE CASCADE,
    relation  oid NOT NULL,
    name      text NOT NULL,
    triggers  text NOT NULL,           -- name, state and xmin of each
    ties      text NOT NULL,           -- each parent, and the xmin of its row in pg_inherits
    PRIMARY KEY (watch, relation)
);

-- What each installed layer needs, by a hash of what it reads. A NULL watch means that nothing that the layer reads can be watched.
CREATE TABLE {schema}.needs (
    definition  text NOT NULL,
    layer       text NOT NULL,         -- its name at the install, for people
    watch       int4 REFERENCES {schema}.watch ON DELETE CASCADE,
    columns     text[] NOT NULL
);
CREATE INDEX needs_definition ON {schema}.needs (definition);

-- The log. An entry holds up to about 1000 positions, so that log and index stay small.
CREATE TABLE {schema}.change (
    xid         xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    at          timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    watch       int4 NOT NULL,
    rows        int4 NOT NULL,         -- changed rows
    x           float8[],              -- points, in the reference system of the column; NaN and infinity may be among them
    y           float8[],
    places      {postgis}.geometry[],  -- other geometries: the geometry, its cover, or its box
    keys        jsonb[],               -- for a query: the columns that it refers to, each as text
    everything  boolean NOT NULL DEFAULT false
);
CREATE INDEX change_xid ON {schema}.change (xid);
CREATE INDEX change_everything ON {schema}.change (xid) WHERE everything;
{replica_identity}
-- Coordinates do not compress, so writers need not try.
ALTER TABLE {schema}.change
    ALTER COLUMN x SET STORAGE EXTERNAL, ALTER COLUMN y SET STORAGE EXTERNAL, ALTER COLUMN places SET STORAGE EXTERNAL;
