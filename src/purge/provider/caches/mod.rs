//! Caches of one's own, and a program of one's own.

mod command;
mod nginx;
mod varnish;

pub(super) use command::UserProgram;
pub(super) use nginx::Nginx;
pub(super) use varnish::Varnish;

use super::super::pace::Rate;

/// Nobody limits these.
const OWN_RATE: Rate = Rate { burst: 1_000_000.0, per_second: 1_000_000.0 };
