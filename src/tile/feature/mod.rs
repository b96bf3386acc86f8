//! Where features lie: boxes and outlines for planning, exact positions for cached rows.

mod footprint;
mod outline;
mod positions;

pub use footprint::{BoxFootprint, Footprints, LayerFootprints, OutlinedBoxes, SortedPoints, Spot};
pub use outline::{MIN_TILES_OF_OUTLINE, Outline, OutlineRun, RingDirection, outline_reach};
pub use positions::{Candidate, Positions, Unit};
