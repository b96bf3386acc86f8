//! MBTiles and PMTiles: written, edited, read by others, damaged, hostile.

pub mod damaged;
pub mod hostile;
pub mod hostile_elsewhere;
pub mod mbtiles;
pub mod mbtiles_edit;
pub mod pmtiles;
pub mod pmtiles_size;
