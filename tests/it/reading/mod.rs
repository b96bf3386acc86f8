//! Commands that read targets.

pub(crate) mod inspect;
pub(crate) mod verify;
