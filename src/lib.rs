//! Static vector tiles from PostGIS. This page is the map of the modules.
//!
//! ```text
//!  seed:    pyramid ∩ occupied ──┐
//!           run/prepare, plan    ├─► batches ──► PostGIS: many tiles a statement ──► gzip ──► target ──► manifest, last
//!  reseed:  changes ──► dirty ───┘   plan        draw (one snapshot, n workers)      encode   target     manifest
//!           change_log  plan         └────────────────── pipeline: bounded workers, one writer ──────────┘
//! ```
//!
//! Both verbs take the same path. They differ in which tiles they plan, and in what happens to the tiles that they do
//! not hand to the target: a seed deletes them, a reseed keeps them. A seed of points has PostGIS encode each row once
//! and assembles the tiles of all zooms from these rows (`draw/cached_rows`); a reseed patches the tiles that the
//! target holds where it can (`draw/patch`). `draw/choice` has the table of the ways to draw a tile, and the function
//! that chooses.
//!
//! The modules from the top down. A module imports only modules that stand below it; `tests/it/project/imports.rs`
//! holds this order, here and inside of every folder of this one.
//!
//! | module | what is there |
//! |---|---|
//! | [`cli`] | a file a verb: the flags, the call, and what it prints |
//! | [`run`] | the work of the verbs: a run over one tileset, its target, the seed, the reseed, the watch; one file or folder for each other verb |
//! | [`config`] | file, environment and flags become checked settings; defaults stand in `sample-config.toml` |
//! | [`shards`] | one seed in parts: the plan, the work folder, sorted runs and how they become one |
//! | [`serve`] | a target over HTTP: tiles, TileJSON, a map, jobs, metrics; it knows no database |
//! | [`report`] | events in; bar, lines, JSON, tables out |
//! | [`change_log`] | the change log: installed, checked, read, pruned |
//! | [`draw`] | which source draws what: the database, cached rows, counted cells, a patch |
//! | [`postgis`] | sessions, probe, survey, layers as SQL: what needs the database |
//! | [`pipeline`] | plan in, tileset out: workers, packing, one writer in order |
//! | [`plan`] | occupied and dirty tiles and their weights, cut into batches |
//! | [`cdn`] | which cached tiles a publish made stale, and how a provider is asked to forget them |
//! | [`target`] | what stores tiles and reads them back: MBTiles, PMTiles, directory, S3; staging |
//! | [`source`] | the trait of what renders |
//! | [`cells`], [`mvt`] | grids of cells; vector tiles as values |
//! | [`scratch`] | sorted data that takes more memory than it may, in files without a name |
//! | [`tile`] | coordinates, boxes, areas, batches: pure values |
//! | [`cursor`], [`manifest`] | a transaction snapshot as a cursor into the change log; what a target says about its run |
//! | [`encode`], [`https`] | compression of tiles; a client for HTTP and HTTPS |
//! | `backoff`, `clock`, `hex`, `json`, `prometheus`, `setting`, `threads` | pauses after failures; times since 1970; hexadecimal digits and random ids; the form of all JSON; metrics as text; types of values in a configuration; work that several threads share |
//! | [`error`], [`exit`], [`stop`], [`signals`], [`suggested`] | kinds of failure and their exit codes; stopping; the signals that ask for it; the commands that messages suggest |
//!
//! In `run`, `draw`, `cli`, `config`, `plan`, `pipeline`, `shards`, `change_log` and `postgis` only that is `pub` which
//! tests and benchmarks import.

#[cfg(not(unix))]
compile_error!("oar-tiles needs Linux or another Unix: it renames, locks and opens files as POSIX has it");

mod backoff;
pub mod cdn;
pub mod cells;
pub mod change_log;
pub mod cli;
mod clock;
pub mod config;
pub mod cursor;
pub mod draw;
pub mod encode;
pub mod error;
pub mod exit;
mod hex;
pub mod https;
mod json;
pub mod manifest;
pub mod mvt;
pub mod pipeline;
pub mod plan;
pub mod postgis;
mod prometheus;
pub mod report;
pub mod run;
pub mod scratch;
pub mod serve;
mod setting;
pub mod shards;
pub mod signals;
pub mod source;
pub mod stop;
pub mod suggested;
pub mod target;
mod threads;
pub mod tile;
