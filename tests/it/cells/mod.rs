//! Cells and clusters: counts, borders, aggregates.

pub(crate) mod aggregates_in_the_survey;
pub(crate) mod edge_cases;
pub(crate) mod grids;
pub(crate) mod merged;
