//! MBTiles and PMTiles: written, edited, read by others, damaged, hostile.

pub(crate) mod damaged;
pub(crate) mod hostile;
pub(crate) mod hostile_elsewhere;
pub(crate) mod hostile_reseed;
pub(crate) mod mbtiles;
pub(crate) mod mbtiles_edit;
pub(crate) mod pmtiles;
pub(crate) mod pmtiles_size;
