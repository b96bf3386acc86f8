//! Commands that read targets.

pub(crate) mod diff;
pub(crate) mod inspect;
pub(crate) mod verify;
