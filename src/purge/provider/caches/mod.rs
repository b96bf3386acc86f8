//! Caches that users run themselves, and a program that users provide.

mod command;
mod nginx;
mod varnish;

pub(super) use command::UserProgram;
pub(super) use nginx::Nginx;
pub(super) use varnish::Varnish;

use super::super::pace::Rate;

/// The rate of providers that have no limit.
const OWN_RATE: Rate = Rate { burst: 1_000_000.0, per_second: 1_000_000.0 };
