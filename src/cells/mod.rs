//! Cells: squares or hexagons of a grid that is anchored to the world. Rows that lie in one cell are drawn as one
//! feature.
//!
//! ```text
//!  survey: row ──► CellGrid::cell ──► Gathering (count, mean, folded values, box) ──► footprints for planning
//!                                                                                 └─► CellCounts for rendering
//! ```
//!
//! | file | what |
//! |---|---|
//! | `grid` | [`CellGrid`] and [`Cell`], the arithmetic of squares and hexagons; `postgis/sql` does the same in SQL, bit for bit |
//! | `gather` | [`Gathering`] takes [`Members`] in any order and returns the cells of each zoom as [`CellCounts`], merged into clusters if asked for |
//! | `kept` | `KeptCells`: cells that are counted while rows come and go |
//! | `row_cells` | the cells of rows that are counted again and again |
//! | `fold` | how values of rows become one value of their cell ([`Fold`]) |

#![warn(missing_docs, reason = "users of the library begin here")]

mod fold;
mod gather;
mod grid;
mod kept;
mod row_cells;

pub(crate) use fold::CodeHasher;
pub use fold::{Fold, Folded};
pub use gather::{CellCounts, CountedCell, Gathering, Members, WantedFolds};
pub(crate) use kept::{CellRows, Change, KeptCells};
pub(crate) use row_cells::RowCells;

pub use grid::{
    Cell, CellEdges, CellGeometry, CellGrid, CellShape, INVERSE_SQRT_3, LAST_DIVISOR, MIDDLE, ROW_HEIGHT, SIXTH,
    SQRT_3, THIRD, TWICE_INVERSE_SQRT_3, code_step,
};
