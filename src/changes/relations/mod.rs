//! The tables and columns that a layer reads, and what the catalog says about these tables.

mod layer_reads;
mod table;
mod watched;

pub(super) use layer_reads::layer_reads;
pub(super) use table::{Table, TableColumn, TableKeyColumn};
pub(super) use watched::{PlannedWatch, WatchRequest, WatchSource};
