//! What a run says about its result: the manifest, the metadata, budgets and warnings.

pub(crate) mod budgets;
pub(crate) mod identity;
pub(crate) mod vanishing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use md5::{Digest as _, Md5};

use super::CommandError;
use crate::changes::Cursor;
use crate::config::JobSettings;
use crate::encode::PACKING_VERSION;
use crate::manifest::{DatabaseMark, DrawingVersions, Manifest, Region, RowCounts, Witness, fingerprint_of};
use crate::postgis::{CommentLayer, FunctionComment, Layer, RENDERING_VERSION};
use crate::sink::{Described, GENERATOR, Metadata, Scope, VectorLayer, Written};
use crate::tile::{AreaPart, Coverage, LayerId, LonLatBox, TileCoord, ZoomList};

pub use budgets::TileCause;
pub(crate) use identity::{LogIdentity, SameDatabase, compare};

/// The fingerprint: a hash of everything but the data that decides a tile's bytes.
pub(crate) fn fingerprint(settings: &JobSettings, layers: &[Arc<Layer>]) -> String {
    let mut hash = Md5::new();
    for layer in layers {
        hash.update(layer.definition());
        hash.update("\n");
    }
    hash.update(settings.run.limits.packing.definition());
    if let Some(variant) = &settings.tileset.variant {
        hash.update(variant.definition());
    }
    let configuration: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    fingerprint_of(&configuration, DrawingVersions { rendering: RENDERING_VERSION, packing: PACKING_VERSION })
}

/// What a seed finds in its target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before<'a> {
    /// What the target says about itself.
    pub(crate) described: Option<&'a Described>,
    /// The number of tiles that the target holds outside of the seed's scope.
    pub(crate) outside: u64,
}

/// What a seed has stored, and from which database state.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeded<'a> {
    /// The snapshot that its tiles show.
    pub(crate) cursor: &'a str,
    /// The mark of the database.
    pub(crate) database: Option<&'a DatabaseMark>,
    /// The witness of the database state that its tiles show.
    pub(crate) witness: Option<&'a Witness>,
    /// The hash of the tables and views that the layers read.
    pub(crate) reads: &'a str,
    /// The fingerprint of the tileset.
    pub(crate) fingerprint: &'a str,
    /// Tiles planned.
    pub(crate) planned: u64,
    /// What the sink did with them.
    pub(crate) written: Written,
    /// Tiles in which a layer could not be rendered.
    pub(crate) failed: &'a [TileCoord],
    /// The numbers of rows.
    pub(crate) rows: &'a Option<RowCounts>,
}

/// The manifest of a run that stored everything that could be rendered.
pub(crate) fn manifest(
    settings: &JobSettings,
    seeded: Seeded<'_>,
    started: SystemTime,
    before: Before<'_>,
) -> Manifest {
    let old = before.described.and_then(manifest_of);
    let tileset = &settings.tileset;
    let parts = parts(old.as_ref(), seeded.cursor, |part| covers(&tileset.zooms, &tileset.bbox, part));
    let scope = Scope { zooms: tileset.zooms.clone(), coverage: Coverage::new(&tileset.bbox) };
    let failed_before: Vec<TileCoord> =
        old.iter().flat_map(|old| &old.unrendered).filter_map(|tile| tile.parse().ok()).collect();
    let unrendered = budgets::unrendered(&failed_before, |tile| scope.holds(tile.into()), seeded.failed);
    let written = seeded.written;
    Manifest {
        version: Manifest::version_with(&[]),
        generator: GENERATOR.to_owned(),
        snapshot: parts.snapshot,
        seed_snapshot: parts.seed_snapshot,
        database: seeded.database.cloned(),
        witness: seeded.witness.cloned(),
        fingerprint: seeded.fingerprint.to_owned(),
        reads: Some(seeded.reads.to_owned()),
        zooms: tileset.zooms.to_string(),
        bbox: tileset.bbox.iter().map(AreaPart::to_string).collect(),
        kept: parts.kept,
        // A seed deletes the tiles of partial regions.
        partial: Vec::new(),
        planned: seeded.planned,
        stored: written.stored + written.unchanged + before.outside,
        empty: written.removed,
        unrendered,
        warned: BTreeMap::new(),
        rows: seeded.rows.clone(),
        started: started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        seconds: started.elapsed().unwrap_or_default().as_secs_f64(),
        publication: None,
    }
}

fn manifest_of(described: &Described) -> Option<Manifest> {
    described.manifest.as_deref().and_then(|manifest| serde_json::from_str(manifest).ok())
}

/// True if a seed with these settings leaves parts of a target as older runs wrote them.
pub(crate) fn leaves_parts(settings: &JobSettings, before: &Described) -> bool {
    let (zooms, bbox) = (&settings.tileset.zooms, &settings.tileset.bbox);
    manifest_of(before).is_some_and(|old| old.regions().any(|part| !covers(zooms, bbox, &part)))
}

/// The parts of a target after a seed, and the snapshots that they show.
struct SeededParts {
    /// The oldest snapshot of all parts.
    snapshot: String,
    /// The snapshot of the seed, if `snapshot` is an older one.
    seed_snapshot: Option<String>,
    kept: Vec<Region>,
}

/// The parts of the old manifest that a seed on the snapshot `now` leaves: those that it did not cover, each with its snapshot. The next reseed
/// has to look for changes since the oldest snapshot.
fn parts(old: Option<&Manifest>, now: &str, covered: impl Fn(&Region) -> bool) -> SeededParts {
    let dated = |old: &Manifest| -> Vec<Region> {
        let date =
            // Each part keeps the witness of the run that wrote it.
            |part: Region| Region {
                snapshot: Some(part.snapshot.unwrap_or_else(|| old.snapshot.clone())),
                witness: part.witness.or_else(|| old.witness.clone()),
                ..part
            };
        old.regions().map(date).collect()
    };
    let kept = without_repeats(old.into_iter().flat_map(dated).filter(|part| !covered(part)));
    let oldest = kept.iter().filter_map(|part| part.snapshot.as_deref()).fold(now, older).to_owned();
    let unless_oldest = |snapshot: String| (snapshot != oldest).then_some(snapshot);
    let kept =
        kept.into_iter().map(|part| Region { snapshot: part.snapshot.and_then(unless_oldest), ..part }).collect();
    SeededParts { seed_snapshot: unless_oldest(now.to_owned()), kept, snapshot: oldest }
}

/// The older of two snapshots of one database. A snapshot that cannot be read counts as older, so that no change is lost.
fn older<'a>(one: &'a str, other: &'a str) -> &'a str {
    match (one.parse::<Cursor>(), other.parse::<Cursor>()) {
        (Ok(first), Ok(second)) if first.sees_all_of(&second) => other,
        (Ok(_), Err(_)) => other,
        _ => one,
    }
}

/// A hash that identifies the database, as a manifest names it, and the tables that a run reads.
pub(crate) fn database(mark: Option<&DatabaseMark>, reads: Option<&str>) -> String {
    let mut hash = Md5::new();
    // Plain data can always be serialized.
    hash.update(serde_json::to_string(&mark).unwrap_or_default());
    hash.update(reads.unwrap_or_default());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The same hash for the run that wrote a manifest.
pub(crate) fn database_of(manifest: &Manifest) -> String {
    database(manifest.database.as_ref(), manifest.reads.as_deref())
}

/// Drops regions that lie within another one, so that the manifest does not grow with every run over a box.
fn without_repeats(regions: impl Iterator<Item = Region>) -> Vec<Region> {
    let holds = |outer: &Region, inner: &Region| {
        let boxes: Result<Vec<AreaPart>, _> = outer.bbox.iter().map(|text| text.parse()).collect();
        matches!((outer.zooms.parse(), boxes), (Ok(zooms), Ok(boxes)) if covers(&zooms, &boxes, inner))
    };
    let mut kept: Vec<Region> = Vec::new();
    for region in regions {
        if !kept.iter().any(|other| holds(other, &region)) {
            kept.retain(|other| !holds(&region, other));
            kept.push(region);
        }
    }
    kept
}

/// The names of the layers, by their ids.
pub(crate) fn names(layers: &[Arc<Layer>]) -> Vec<String> {
    let mut names: BTreeMap<LayerId, String> = BTreeMap::new();
    for layer in layers {
        names.entry(layer.id()).or_insert_with(|| layer.name().to_owned());
    }
    names.into_values().collect()
}

/// Merges the entries of each layer into one: a layer that is drawn in several ways has several.
fn merged(layers: impl Iterator<Item = VectorLayer>) -> Vec<VectorLayer> {
    let mut merged: Vec<VectorLayer> = Vec::new();
    for layer in layers {
        match merged.iter_mut().find(|other| other.id == layer.id) {
            None => merged.push(layer),
            Some(other) => {
                (other.minzoom, other.maxzoom) = (other.minzoom.min(layer.minzoom), other.maxzoom.max(layer.maxzoom));
                other.fields.extend(layer.fields);
            }
        }
    }
    merged
}

/// True if a run over these zooms and boxes renders all of a region.
fn covers(zooms: &ZoomList, parts: &[AreaPart], region: &Region) -> bool {
    let Ok(old) = region.zooms.parse::<ZoomList>() else { return false };
    let within = |old: &String| {
        let Ok(old) = old.parse::<AreaPart>() else { return false };
        parts.iter().any(|new| {
            if old == *new {
                return true;
            }
            let Some(new) = new.as_box() else { return false };
            let bounds = old.bounds();
            !new.crosses_antimeridian()
                && old.as_box().is_none_or(|old| !old.crosses_antimeridian())
                && bounds.iter().all(|old| {
                    new.west <= old.west && new.south <= old.south && old.east <= new.east && old.north <= new.north
                })
        })
    };
    old.iter().all(|zoom| zooms.contains(zoom))
        && (parts.is_empty() || !region.bbox.is_empty() && region.bbox.iter().all(within))
}

/// The metadata of the target after the run. `bounds` is the box of the features that the run has seen. `before` is the target's earlier
/// description of itself, if the run keeps some of its earlier tiles.
pub(crate) fn metadata(
    settings: &JobSettings,
    layers: &[Arc<Layer>],
    bounds: LonLatBox,
    manifest: &Manifest,
    before: Option<&Described>,
) -> Result<Metadata, CommandError> {
    let (tileset, texts) = (&settings.tileset, &settings.tileset.layer_texts);
    let kept: Vec<ZoomList> = manifest.kept.iter().filter_map(|region| region.zooms.parse().ok()).collect();
    let zooms = kept.iter().fold(tileset.zooms.clone(), |all, zooms| all.union(zooms));
    let drawn = |layer: &Layer| {
        let zooms = || zooms.iter().filter(|zoom| layer.zooms().contains(*zoom));
        Some((zooms().next()?.get(), zooms().next_back()?.get()))
    };
    let vector_layers = |layer: &Layer| {
        let Some((minzoom, maxzoom)) = drawn(layer) else { return Vec::new() };
        let declared = layer.function().map_or(&[][..], |function| &function.comment().vector_layers);
        if !declared.is_empty() {
            let within = |zoom: u8| zoom.clamp(minzoom, maxzoom);
            let one = |declared: &CommentLayer| VectorLayer {
                id: declared.id.clone(),
                description: declared.description.clone(),
                minzoom: within(declared.minzoom.unwrap_or(minzoom)),
                maxzoom: within(declared.maxzoom.unwrap_or(maxzoom)),
                fields: declared.fields.iter().map(|(name, kind)| (name.clone(), kind.clone().into())).collect(),
            };
            return declared.iter().map(one).collect();
        }
        let text = texts.iter().find(|text| text.name == layer.name());
        let of_property = |name: &str| text.and_then(|text| text.of_properties.get(name)).cloned();
        let fields = layer.fields();
        let fields = fields.map(|(name, kind)| (name.to_owned(), of_property(name).map_or(kind.into(), Into::into)));
        let description = text.and_then(|text| text.description.clone()).unwrap_or_default();
        vec![VectorLayer { id: layer.name().to_owned(), description, minzoom, maxzoom, fields: fields.collect() }]
    };
    let declared = |of: fn(&FunctionComment) -> &Option<String>| {
        layers.iter().find_map(|layer| of(layer.function()?.comment()).clone())
    };
    let bounds = before.and_then(|before| before.bounds).map_or(bounds, |old| bounds.joined(old));
    Ok(Metadata {
        name: tileset.name.clone(),
        description: tileset.description.clone().or_else(|| declared(|comment| &comment.description)),
        attribution: tileset.attribution.clone().or_else(|| declared(|comment| &comment.attribution)),
        version: tileset.version.clone(),
        vector_layers: merged(layers.iter().flat_map(|layer| vector_layers(layer))),
        zooms,
        bounds,
        center: tileset.center,
        manifest: serde_json::to_string(manifest).map_err(std::io::Error::from)?,
    })
}

/// The description of a tileset that has no target: its manifest names no zooms.
pub(crate) fn of_no_target(settings: &JobSettings, layers: &[Arc<Layer>]) -> Result<Described, CommandError> {
    let manifest = Manifest {
        version: Manifest::version_with(&[]),
        generator: GENERATOR.to_owned(),
        snapshot: String::new(),
        seed_snapshot: None,
        database: None,
        witness: None,
        fingerprint: fingerprint(settings, layers),
        reads: None,
        zooms: String::new(),
        bbox: Vec::new(),
        kept: Vec::new(),
        partial: Vec::new(),
        planned: 0,
        stored: 0,
        empty: 0,
        unrendered: Vec::new(),
        warned: BTreeMap::new(),
        rows: None,
        started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        seconds: 0.0,
        publication: None,
    };
    let boxes = settings.tileset.bbox.iter().flat_map(AreaPart::bounds);
    let bounds = boxes.reduce(LonLatBox::joined).unwrap_or(LonLatBox::WORLD);
    let metadata = metadata(settings, layers, bounds, &manifest, None)?;
    let zooms = metadata.zooms.iter().next().zip(metadata.zooms.iter().next_back());
    Ok(Described {
        name: Some(metadata.name),
        description: metadata.description,
        attribution: metadata.attribution,
        version: metadata.version,
        zooms: zooms.map(|(first, last)| (first.get(), last.get())),
        bounds: Some(metadata.bounds),
        center: metadata.center,
        vector_layers: metadata.vector_layers,
        generator: Some(GENERATOR.to_owned()),
        manifest: Some(metadata.manifest),
        public_url: None,
        unfinished: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_covers_what_lies_within_its_zooms_and_boxes() {
        let boxes = |text: &[&str]| text.iter().map(|text| text.parse().unwrap()).collect::<Vec<AreaPart>>();
        for (zooms, bbox, old_zooms, old_bbox, covered) in [
            ("0-14", vec![], "0-14", vec![], true),
            ("0-14", vec![], "3", vec!["0,0,1,1"], true),
            ("0-5", vec![], "0-14", vec![], false),
            ("0-14", vec!["0,0,10,10"], "0-14", vec![], false),
            ("0-14", vec!["0,0,10,10"], "2-3", vec!["1,1,2,2", "0,0,10,10"], true),
            ("0-14", vec!["0,0,10,10"], "2-3", vec!["1,1,20,2"], false),
            ("0-14", vec!["170,-5,-170,5"], "2-3", vec!["170,-5,-170,5"], true),
        ] {
            let region = Region {
                zooms: old_zooms.to_owned(),
                bbox: old_bbox.into_iter().map(str::to_owned).collect(),
                snapshot: None,
                witness: None,
            };
            assert_eq!(covers(&zooms.parse().unwrap(), &boxes(&bbox), &region), covered, "{zooms} {bbox:?} {region:?}");
        }
    }
}
