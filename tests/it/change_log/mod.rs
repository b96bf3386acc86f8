//! The change log: installed, trusted or refused, read, removed.

pub(crate) mod check;
pub(crate) mod column_kinds;
pub(crate) mod commands;
pub(crate) mod database_identity;
pub(crate) mod install;
pub(crate) mod namesake;
pub(crate) mod other_histories;
pub(crate) mod owner;
pub(crate) mod rights;
pub(crate) mod surroundings;
pub(crate) mod views;
pub(crate) mod waiting;

/// A table of points, and one whose rows name them.
const MILLS: &str = "
    CREATE TABLE mill (id int PRIMARY KEY, name text, kind text, more text, location geometry(Point, 4326));
    CREATE TABLE match (id int PRIMARY KEY, mill_id int, score int, stamp timestamptz);
    INSERT INTO mill SELECT i, 'mill ' || i, 'k', '', ST_SetSRID(ST_MakePoint(i, i), 4326) FROM generate_series(1, 3) AS i;";

const LAYER: &str = "[[layer]]\nname = \"mills\"\ntable = \"mill\"\nproperties = [\"name\"]\n";
