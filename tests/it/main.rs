//! Tests against a real PostGIS, real readers of the formats, and real faults. `scripts/test` starts the server that they
//! share; each test has a database of its own in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::print_stderr,
    clippy::case_sensitive_file_extension_comparisons,
    clippy::needless_for_each,
    clippy::needless_pass_by_value,
    clippy::type_complexity,
    clippy::unused_self,
    unreachable_pub,
    dead_code,
    missing_docs,
    reason = "tests fail by panicking, and count in small numbers"
)]

mod support;

mod bad_cells;
mod bad_database;
mod bad_input;
mod bad_layers;
mod bad_queries;
mod budgets;
mod cells;
mod cells_traps;
mod column_types;
mod command_line;
mod copy;
mod dependencies;
mod directory_faults;
mod directory_target;
mod dirty_out;
mod drawing_versions;
mod edit_contract;
mod failing_tiles;
mod faults;
mod filters;
mod folded;
mod four_targets;
mod histories;
mod house;
mod identity;
mod inspect;
mod links;
mod locks;
mod locks_verbs;
mod manual;
mod map;
mod mbtiles_edit;
mod mbtiles_file;
mod mutated;
mod near;
mod odd_rows;
mod other_tilesets;
mod patches;
mod pmtiles_file;
mod pmtiles_size;
mod public_url;
mod query_layers;
mod query_plan;
mod query_reseed;
mod reference;
mod registry_map;
mod reseed;
mod reseed_faults;
mod reseed_given;
mod reseed_refused;
mod reseed_traps;
mod reseed_watch;
mod s3_archive;
mod s3_edits;
mod s3_faults;
mod s3_keys;
mod s3_lease;
mod s3_target;
mod servers;
mod serving;
mod shrink;
mod sink_contract;
mod steady;
mod stock;
mod stops;
mod strangers;
mod strangers_elsewhere;
mod tile_bounds;
mod track;
mod track_check;
mod track_install;
mod track_kinds;
mod track_owner;
mod track_reads;
mod track_rights;
mod unfinished;
mod unfinished_steps;
mod verify;
mod versions;
mod warnings;
mod world_edge;
mod world_edge_changes;
mod world_edge_kinds;
