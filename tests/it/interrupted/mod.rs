//! Killed processes, lost connections, signals, full disks.

pub mod connections;
pub mod every_step;
pub mod seed;
pub mod signals;
pub mod unfinished;
