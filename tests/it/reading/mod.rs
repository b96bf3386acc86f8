//! Commands that read targets.

pub(crate) mod diff;
pub(crate) mod endpoint;
pub(crate) mod inspect;
pub(crate) mod verify;
