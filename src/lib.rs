//! Static vector tiles from PostGIS. This page is the map of the modules.
//!
//! ```text
//!  seed:    pyramid ∩ occupied ──┐
//!           run/prepare, plan    ├─► batches ──► PostGIS: many tiles a statement ──► gzip ──► sink ──► manifest, last
//!  reseed:  changes ──► dirty ───┘   plan        postgis (one snapshot, n workers)   encode   sink     manifest
//!           changes     plan         └────────────────── pipeline: bounded workers, one writer ──────────┘
//! ```
//!
//! A seed of points has PostGIS encode each row once and assembles the tiles of all zooms from these rows (`postgis/render/cached_rows`).
//! `source/choice` has the table of the ways to draw a tile, and the function that chooses.
//!
//! Both verbs take the same path. They differ in which tiles they plan, and in what happens to the tiles that they do not hand to the
//! sink: a seed deletes them, a reseed keeps them. Where it can, a reseed patches the tile that the target holds (`patch`).
//!
//! The modules, in the order of a tile's way:
//!
//! | module | what happens there | imports |
//! |---|---|---|
//! | [`cli`] | flags as typed | `changes`, `config`, `serve`, `tile` |
//! | [`config`] | file, environment and flags become checked settings | option structs of the parts |
//! | [`command`] | one verb a file; each returns a value, which `main` prints | `run` and everything below |
//! | [`run`] | what verbs share: a job, its target, restarts, the seed, the look at what changed; names concrete sources and sinks | everything below |
//! | [`shards`] | one seed in parts: the plan, the work folder, sorted runs and how they become one | `error`, `manifest`, `postgis`, `report`, `sink`, `suggested`, `tile` |
//! | [`report`] | events in; bar, lines, JSON, tables out | values of `plan`, `pipeline`, `manifest`, `sink`, `suggested`, `tile` |
//! | [`serve`] | a target over HTTP: tiles, TileJSON, a map, metrics | `cursor`, `encode`, `error`, `manifest`, `mvt`, `purge`, `sink`, `stop`, `tile` |
//! | [`purge`] | CDNs: which cached tiles a publish made stale, and how a provider is asked to forget them | `error`, `https`, `sink`, `stop`, `suggested`, `tile` |
//! | [`pipeline`] | plan in, tileset out: workers, packing, one writer in order | `source`, `sink`, `encode`, `tile` |
//! | [`patch`] | points that changed, put into the tiles that the target holds | `encode`, `mvt`, `plan`, `sink`, `source`, `tile` |
//! | [`plan`] | occupied tiles and their weights, cut into batches | `cells`, `scratch`, `tile` |
//! | [`changes`] | the change log: installed, checked, read, pruned | `cursor`, `error`, `postgis`, `suggested`, `tile` |
//! | [`cursor`] | a transaction snapshot as a cursor into the change log | nothing |
//! | [`postgis`] | sessions, probe, survey, layers as SQL, rendering, cached rows | `cells`, `encode`, `error`, `mvt`, `scratch`, `source`, `manifest`, `stop`, `suggested`, `tile` |
//! | [`source`] | the trait of what renders | `tile` |
//! | [`sink`] | the traits of what stores and of what is read back; MBTiles, PMTiles, directory, S3; staging | `encode`, `error`, `manifest`, `stop`, `tile` |
//! | [`encode`] | compression of tiles | nothing |
//! | [`error`] | the kinds of failure, which decide about exit codes, restarts and full seeds | nothing |
//! | [`https`] | a client for HTTP and HTTPS | nothing |
//! | [`mvt`] | MVT as values: layers, features, geometries | `tile` |
//! | [`manifest`] | what a target says about its run | nothing |
//! | [`stop`] | whether a stop was asked for | nothing |
//! | [`suggested`] | the commands that messages suggest, with the `--config` that the run was given | nothing |
//! | [`scratch`] | sorted data that takes more memory than it may, in files without a name | `tile` |
//! | [`cells`] | grids of cells; rows gathered in them | `tile` |
//! | [`tile`] | coordinates, boxes, areas, batches: pure values | nothing |
//! | [`exit`] | from the kind of a failure to the exit code | `error`, `stop` |
//! | [`signals`] | SIGINT and SIGTERM: ask for a stop, and end what does not end by itself | `exit`, `report`, `stop` |
//!
//! Imports go down; `tests/it/project/imports.rs` holds the table.

pub mod cells;
pub mod changes;
pub mod cli;
pub mod command;
pub mod config;
pub mod cursor;
pub mod encode;
pub mod error;
pub mod exit;
pub mod https;
pub mod manifest;
pub mod mvt;
pub mod patch;
pub mod pipeline;
pub mod plan;
pub mod postgis;
pub mod purge;
pub mod report;
pub mod run;
pub mod scratch;
pub mod serve;
pub mod shards;
pub mod signals;
pub mod sink;
pub mod source;
pub mod stop;
pub mod suggested;
pub mod tile;
