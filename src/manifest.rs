//! The manifest: what a target says about the run that made it. It decides whether a reseed can bring the target up to
//! date, and from which snapshot.

#![warn(missing_docs, reason = "users of the library begin here")]

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::hex::random_hex;

/// The newest version of the manifest's layout that this program knows. Version 2 has [`Manifest::partial`].
pub const MANIFEST_VERSION: u32 = 2;

/// The version of a manifest without partial regions. Programs that do not know partial regions read it, too.
const VERSION_WITHOUT_PARTS: u32 = 1;

/// A publication: one change of a target, which its manifest made visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Publication {
    /// One more than the number of the previous publication. It is 1 for the first one, and after a manifest without a
    /// publication.
    pub number: u64,
    /// Random, 32 hexadecimal digits. It distinguishes this publication from those of another target, of a restored
    /// copy, and of a run that never finished.
    pub id: String,
}

impl Publication {
    /// The publication that follows `before`.
    pub fn after(before: Option<&Publication>) -> Publication {
        let number = before.map_or(0, |before| before.number).saturating_add(1);
        Publication { number, id: random_hex(2) }
    }
}

/// The publication that a manifest names; `None` if it names none, or is no manifest.
pub fn publication_of(manifest: &str) -> Option<Publication> {
    #[derive(Deserialize)]
    struct Published {
        publication: Option<Publication>,
    }
    serde_json::from_str::<Published>(manifest).ok()?.publication
}

/// The numbers of rows that a manifest holds; `None` if it holds none, or is no manifest.
pub fn row_counts_of(manifest: &str) -> Option<RowCounts> {
    #[derive(Deserialize)]
    struct Counted {
        rows: Option<RowCounts>,
    }
    serde_json::from_str::<Counted>(manifest).ok()?.rows
}

/// The manifest of a tileset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Manifest {
    /// The version of its layout, up to [`MANIFEST_VERSION`]: the lowest that has what it says. A program that knows
    /// only lower ones leaves the target as it is.
    pub version: u32,
    /// The program and its version.
    pub generator: String,
    /// `pg_current_snapshot()`: the database state that the tiles show, and the cursor for changes. That of the run or,
    /// if parts of older runs are left, the oldest of theirs.
    pub snapshot: String,
    /// The snapshot of the last seed, if `snapshot` is an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed_snapshot: Option<String>,
    /// The identity of the database. `None` if there was no key for its HMACs: the manifest is public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<DatabaseMark>,
    /// The witness of the newest state that the tiles show. `None` if there was no key for its HMAC, or an older
    /// program wrote the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<Witness>,
    /// Everything but the data that decides a tile's bytes: a hash of the configuration, and the versions of the
    /// program's rendering and packing. See [`fingerprint_of`].
    pub fingerprint: String,
    /// A hash of the tables and views that the layers read, partitions included, by OID and definition rather than by
    /// name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<String>,
    /// The zooms, as a list such as `0-14`.
    pub zooms: String,
    /// The boxes, each `west,south,east,north`; none for the whole world.
    pub bbox: Vec<String>,
    /// Parts that earlier runs wrote and this run did not cover.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<Region>,
    /// Partial regions, outside of the scope: a tile that is stored there shows the snapshot, and one that is not
    /// stored is unknown. The parts of [`Manifest::regions`] that they meet are not partial. Only `serve` stores tiles
    /// there (`write_back`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partial: Vec<Region>,
    /// Tiles that the plan held.
    pub planned: u64,
    /// Tiles that the target holds, parts of older runs included.
    pub stored: u64,
    /// Planned tiles that rendered to nothing.
    pub empty: u64,
    /// Tiles in which a layer could not be rendered, each `z/x/y`. They have their earlier content, or lack that layer.
    /// The next reseed renders them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unrendered: Vec<String>,
    /// When a run last warned that a layer does not keep its budget, by layer, in seconds since 1970 (UTC). Reseeds
    /// warn once a day.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub warned: BTreeMap<String, u64>,
    /// How many rows each layer has. `None` if an older program wrote the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowCounts>,
    /// When the run began, in seconds since 1970 (UTC).
    pub started: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The publication that this manifest made visible; `None` if an older program wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
}

/// How many rows the layers of a target have, so that a run that would lose many of them is refused (`max_shrink`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RowCounts {
    /// The boxes in which rows were counted, each `west,south,east,north`; none for the whole world.
    pub bbox: Vec<String>,
    /// The counts. A layer that is drawn differently at different zooms has several.
    pub layers: Vec<LayerRows>,
}

/// How many rows a layer has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LayerRows {
    /// The layer.
    pub layer: String,
    /// The zooms for which it was counted, as a list such as `0-14`.
    pub zooms: String,
    /// The number of rows that had a position when they were counted last.
    pub rows: u64,
    /// The most rows that may have come or gone since, by the change log.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub changed: u64,
    /// Higher numbers of the day before the last count, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<RowsThen>,
}

/// How many rows a layer had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RowsThen {
    /// The number of rows.
    pub rows: u64,
    /// Until when, in seconds since 1970 (UTC).
    pub until: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A part of a tileset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Region {
    /// The zooms, as a list such as `0-14`.
    pub zooms: String,
    /// The boxes, each `west,south,east,north`; none for the whole world.
    pub bbox: Vec<String>,
    /// The snapshot that its tiles show, if that is not the manifest's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The witness of the newest state that its tiles show, if that is not the manifest's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<Witness>,
}

/// What the change log held at a snapshot. By this, another history of the same database is recognized: that of a copy,
/// of a restored backup, of a standby that lacked the last commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Witness {
    /// The database state that it is about, in the form of `pg_current_snapshot()`: all that the tiles may show.
    pub snapshot: String,
    /// The number of transactions that the hash covers: the newest ones in the log that the snapshot sees, at most 64.
    pub transactions: u32,
    /// HMAC of these transactions, with the key of [`KeyedIdentity`].
    pub hash: String,
}

impl Manifest {
    /// The part that the last seed wrote.
    pub fn last_seeded(&self) -> Region {
        Region {
            zooms: self.zooms.clone(),
            bbox: self.bbox.clone(),
            snapshot: self.seed_snapshot.clone(),
            witness: self.witness.clone(),
        }
    }

    /// Every part of the tileset that the target holds. The part of the last seed comes first.
    pub fn regions(&self) -> impl Iterator<Item = Region> + '_ {
        std::iter::once(self.last_seeded()).chain(self.kept.iter().cloned())
    }

    /// The witnesses of all states that the tiles show.
    pub fn witnesses(&self) -> impl Iterator<Item = &Witness> {
        self.witness.iter().chain(self.kept.iter().filter_map(|part| part.witness.as_ref()))
    }

    /// The version of the layout of a manifest with these partial regions.
    pub const fn version_with(partial: &[Region]) -> u32 {
        if partial.is_empty() { VERSION_WITHOUT_PARTS } else { MANIFEST_VERSION }
    }

    /// The same parts, which all show the manifest's snapshot now.
    #[must_use]
    pub fn brought_forward(self, snapshot: &str) -> Manifest {
        let kept = self.kept.into_iter().map(|part| Region { snapshot: None, witness: None, ..part }).collect();
        Manifest { snapshot: snapshot.to_owned(), seed_snapshot: None, kept, ..self }
    }
}

/// The identity of a database in a manifest. Manifests are public.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum DatabaseMark {
    /// HMACs: they identify the database only to those who have the key.
    Keyed(KeyedIdentity),
    /// In plain text, as the first manifests did.
    Plain(DatabaseIdentity),
}

/// The identity of a database: HMACs (RFC 2104) with SHA-256 and a random key that stays in the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyedIdentity {
    /// HMAC of the empty message: identifies the key itself.
    pub key: String,
    /// HMAC of the cluster's system identifier, if the role could read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// HMAC of the timeline, if it was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
    /// HMAC of the database's name and OID.
    pub database: String,
    /// HMAC of the version of PostGIS.
    pub postgis: String,
}

/// The identity of a database in plain text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DatabaseIdentity {
    /// The cluster's system identifier (`pg_control_system()`), if the role may read it.
    pub system_identifier: Option<String>,
    /// The timeline of its write-ahead log: another one after a failover or a restored backup. `None` if it was not
    /// known.
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

/// The versions of how the program turns rows into bytes. If one of them differs, equal data and an equal configuration
/// may give other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrawingVersions {
    /// `postgis::RENDERING_VERSION` of the program that drew the tiles.
    pub rendering: u32,
    /// `encode::PACKING_VERSION` of the program that packed them.
    pub packing: u32,
}

/// The fingerprint of a tileset, such as `9e107d9d372bb6826bd81d3542a419d6-r1-p1`: a hash of its configuration, the
/// rendering version, the packing version.
pub fn fingerprint_of(configuration: &str, versions: DrawingVersions) -> String {
    format!("{configuration}-r{}-p{}", versions.rendering, versions.packing)
}

/// The configuration in a fingerprint. Two targets with the same one are the same tileset, whichever version of the
/// program drew them.
pub fn configuration_of(fingerprint: &str) -> &str {
    split(fingerprint).map_or(fingerprint, |(configuration, _)| configuration)
}

/// The versions in a fingerprint; `None` if the program that wrote it had no such versions yet.
fn versions_of(fingerprint: &str) -> Option<DrawingVersions> {
    split(fingerprint).map(|(_, versions)| versions)
}

fn split(fingerprint: &str) -> Option<(&str, DrawingVersions)> {
    let (front, packing) = fingerprint.rsplit_once("-p")?;
    let (configuration, rendering) = front.rsplit_once("-r")?;
    Some((configuration, DrawingVersions { rendering: rendering.parse().ok()?, packing: packing.parse().ok()? }))
}

/// Why a target with the fingerprint `then` may hold other bytes than the program with the fingerprint `now` would
/// draw; `None` if both name the same versions.
pub fn drawn_otherwise(then: &str, now: &str) -> Option<String> {
    let (then, now) = (versions_of(then), versions_of(now));
    if then == now {
        return None;
    }
    let shown = |versions: Option<DrawingVersions>| match versions {
        Some(DrawingVersions { rendering, packing }) => {
            format!("rendering version {rendering}, packing version {packing}")
        }
        None => "no rendering or packing version noted".to_owned(),
    };
    Some(format!(
        "another version of oar-tiles drew it ({}) than this one ({}): the same rows may give other bytes now",
        shown(then),
        shown(now)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_names_its_configuration_and_its_versions() {
        let versions = DrawingVersions { rendering: 3, packing: 12 };
        let text = fingerprint_of("d41d8cd9", versions);
        assert_eq!(text, "d41d8cd9-r3-p12");
        assert_eq!((configuration_of(&text), versions_of(&text)), ("d41d8cd9", Some(versions)));
        for old in ["d41d8cd9", "copied", "", "x-r1", "x-p1", "x-rone-p1"] {
            assert_eq!((configuration_of(old), versions_of(old)), (old, None));
        }
    }

    #[test]
    fn other_versions_are_named_on_both_sides() {
        assert_eq!(drawn_otherwise("a-r1-p1", "b-r1-p1"), None, "another configuration is another matter");
        assert_eq!(drawn_otherwise("a", "a"), None);
        for (then, named) in [
            ("a", "(no rendering or packing version noted)"),
            ("a-r1-p2", "(rendering version 1, packing version 2)"),
            ("a-r2-p1", "(rendering version 2, packing version 1)"),
            ("a-r3-p2", "(rendering version 3, packing version 2)"),
        ] {
            let why = drawn_otherwise(then, "a-r2-p2").unwrap();
            assert!(why.contains(named) && why.contains("(rendering version 2, packing version 2)"), "{why}");
        }
    }
}
