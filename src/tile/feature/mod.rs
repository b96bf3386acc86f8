//! Where features lie: boxes for planning, exact positions for cached rows.

mod footprint;
mod positions;

pub use footprint::{BoxFootprint, Footprints, LayerFootprints, SortedPoints, Spot};
pub use positions::{Candidate, Positions, Unit};
