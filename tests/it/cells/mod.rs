//! Cells and clusters: counts, borders, aggregates.

pub mod aggregates_in_the_survey;
pub mod edge_cases;
pub mod grids;
