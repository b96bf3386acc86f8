//! Commands that read targets.

pub mod inspect;
pub mod verify;
