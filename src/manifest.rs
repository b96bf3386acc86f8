//! What a target says about the run that made it: enough to tell later whether, and from where, it can be brought up to
//! date.

use serde::{Deserialize, Serialize};

/// The version of the manifest's own layout.
pub const MANIFEST_VERSION: u32 = 1;

/// The manifest of a tileset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`] of the program that wrote it.
    pub version: u32,
    /// The program and its version.
    pub generator: String,
    /// `pg_current_snapshot()` of the run: the database state that the tiles show, and the cursor for changes.
    pub snapshot: String,
    /// The database.
    pub database: DatabaseIdentity,
    /// A hash of everything in the configuration that decides a tile's bytes.
    pub fingerprint: String,
    /// A hash of the tables and views that the layers read, partitions counted in, by what they are rather than by their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<String>,
    /// The zooms, as a list such as `0-14`.
    pub zooms: String,
    /// The boxes, each `west,south,east,north`; none for the whole world.
    pub bbox: Vec<String>,
    /// What earlier runs wrote and this one was not about; the snapshot is the one of the oldest run then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Region>,
    /// Tiles that the plan held.
    pub planned: u64,
    /// Tiles of this run that the target holds.
    pub stored: u64,
    /// Planned tiles that rendered to nothing.
    pub empty: u64,
    /// Tiles of which a layer could not be rendered, each `z/x/y`: they are what they were before, or lack that layer. The next reseed
    /// renders them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unrendered: Vec<String>,
    /// When the run began, in seconds since 1970 (UTC).
    pub started: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A part of a tileset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// The zooms, as a list such as `0-14`.
    pub zooms: String,
    /// The boxes, each `west,south,east,north`; none for the whole world.
    pub bbox: Vec<String>,
}

impl Manifest {
    /// Every part of the tileset that the target holds.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        let own = Region { zooms: self.zooms.clone(), bbox: self.bbox.clone() };
        std::iter::once(own).chain(self.kept.iter().cloned())
    }
}

/// What tells one database from another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DatabaseIdentity {
    /// The cluster's system identifier (`pg_control_system()`), if the role may read it.
    pub system_identifier: Option<String>,
    /// The timeline of its write-ahead log: another one after a failover or a restored backup. `None` if it could not be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// The database's name.
    pub name: String,
    /// The database's OID.
    pub oid: u32,
    /// `server_version`.
    pub postgresql: String,
    /// `postgis_lib_version()`.
    pub postgis: String,
}
