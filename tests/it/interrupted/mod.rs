//! Killed processes, lost connections, signals, full disks.

pub(crate) mod connections;
pub(crate) mod every_step;
mod overtaken;
mod recovery;
pub(crate) mod seed;
pub(crate) mod signals;
pub(crate) mod unfinished;
