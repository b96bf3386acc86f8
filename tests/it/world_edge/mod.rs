//! Rows at and beyond ±180° and the poles.

pub(crate) mod changes;
pub(crate) mod layer_kinds;
pub(crate) mod repair;
pub(crate) mod rows;
