//! Rows at and beyond ±180° and the poles.

pub mod changes;
pub mod layer_kinds;
pub mod rows;
