//! One verb per file or folder. A verb returns a value, which `main` prints. No verb imports another: what they share is in [`crate::run`].

pub mod config;
pub mod copy;
pub mod diff;
pub mod doctor;
pub mod init;
pub mod inspect;
pub mod jobs;
pub mod publish;
pub mod purge;
pub mod reseed;
pub mod schemas;
pub mod seed;
pub mod serve;
pub mod shards;
pub mod track;
pub mod verify;

pub use crate::run::CommandError;
