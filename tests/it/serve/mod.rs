//! `oar-tiles serve` and `preview`: a target over HTTP.

mod addresses;
pub(crate) mod admission;
pub(crate) mod changes;
pub(crate) mod deaths;
pub(crate) mod discovered;
pub(crate) mod histories;
pub(crate) mod hostile;
pub(crate) mod http;
pub(crate) mod job_effects;
pub(crate) mod jobs;
pub(crate) mod killed_writer;
pub(crate) mod live;
mod live_facets;
pub(crate) mod live_rows;
pub(crate) mod live_sets;
pub(crate) mod log;
pub(crate) mod lost_target;
pub(crate) mod metrics;
pub(crate) mod operation;
mod origins;
pub(crate) mod parameters;
mod parameters_facets;
mod pooled_rows;
mod posted_filters;
pub(crate) mod preview;

mod preview_page;
pub(crate) mod queue;
pub(crate) mod redis;
mod registry;
pub(crate) mod saved_rows;
pub(crate) mod settings;
pub(crate) mod several;
mod signatures;
pub(crate) mod stale;
pub(crate) mod write_back;
pub(crate) mod writer;
