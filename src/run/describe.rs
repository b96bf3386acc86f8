//! What a run says about its result: the manifest, the metadata, budgets and warnings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use md5::{Digest as _, Md5};

use super::CommandError;
use crate::change_log::Cursor;

use crate::clock::seconds_now;
use crate::config::Settings;
use crate::draw::RENDERING_VERSION;
use crate::encode::PACKING_VERSION;
use crate::hex::hex;
use crate::manifest::{DatabaseMark, DrawingVersions, Manifest, Region, fingerprint_of};
use crate::pipeline::{FailedTile, PipelineOutcome, ZoomStats};
use crate::postgis::{CommentLayer, FunctionComment, Layer};
use crate::report::{FailedLayer, LargeTile, LayerBudget, Report, named};
use crate::shards::LayerRecord;
use crate::target::{Described, GENERATOR, Metadata, VectorLayer};
use crate::tile::{AreaPart, LayerId, LonLatBox, TileCoord, ZoomList, area_of_texts, area_texts};

/// The fingerprint: a hash of everything but the data that decides a tile's bytes.
pub(crate) fn fingerprint(settings: &Settings, layers: &[Arc<Layer>]) -> String {
    let mut hash = Md5::new();
    for layer in layers {
        hash.update(layer.definition());
        hash.update("\n");
    }
    hash.update(settings.run.limits.packing.definition());
    if let Some(variant) = &settings.tileset.variant {
        hash.update(variant.definition());
    }
    let configuration = hex(hash.finalize());
    fingerprint_of(&configuration, DrawingVersions { rendering: RENDERING_VERSION, packing: PACKING_VERSION })
}

/// The parts of a seed's manifest that depend on which tiles it covers. `cursor` is its snapshot, `before` what the
/// target said about itself.
pub(crate) fn seeded_manifest(settings: &Settings, cursor: &str, before: Option<&Described>) -> Manifest {
    let old = before.and_then(manifest_of);
    let tileset = &settings.tileset;
    let parts = parts(old.as_ref(), cursor, |part| covers(&tileset.zooms, &tileset.bbox, part));
    let scope = tileset.scope();
    let is_outside = |tile: &String| tile.parse().is_ok_and(|tile: TileCoord| !scope.holds(tile.into()));
    Manifest {
        snapshot: parts.snapshot,
        seed_snapshot: parts.seed_snapshot,
        zooms: tileset.zooms.to_string(),
        bbox: area_texts(&tileset.bbox),
        kept: parts.kept,
        // A seed deletes the tiles of partial regions, which are not in the new manifest.
        unrendered: old.into_iter().flat_map(|old| old.unrendered).filter(is_outside).collect(),
        ..Manifest::default()
    }
}

fn manifest_of(described: &Described) -> Option<Manifest> {
    described.manifest.as_deref().and_then(|manifest| serde_json::from_str(manifest).ok())
}

/// True if a seed with these settings leaves parts of a target as older runs wrote them.
pub(crate) fn leaves_parts(settings: &Settings, before: &Described) -> bool {
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

/// The parts of the old manifest that a seed on the snapshot `now` leaves: those that it did not cover, each with its
/// snapshot. The next reseed has to look for changes since the oldest snapshot.
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

/// The older of two snapshots of one database. A snapshot that cannot be read counts as older, so that no change is
/// lost.
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
    hex(hash.finalize())
}

/// The same hash for the run that wrote a manifest.
pub(crate) fn database_of(manifest: &Manifest) -> String {
    database(manifest.database.as_ref(), manifest.reads.as_deref())
}

/// Drops regions that lie within another one, so that the manifest does not grow with every run over a box.
fn without_repeats(regions: impl Iterator<Item = Region>) -> Vec<Region> {
    let holds = |outer: &Region, inner: &Region| {
        let boxes = area_of_texts(&outer.bbox);
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

/// The metadata of the target after the run. `bounds` is the box of the features that the run has seen. `before` is the
/// target's earlier description of itself, if the run keeps some of its earlier tiles.
pub(crate) fn metadata(
    settings: &Settings,
    layers: &[Arc<Layer>],
    bounds: LonLatBox,
    manifest: &Manifest,
    before: Option<&Described>,
) -> Result<Metadata, CommandError> {
    let tileset = &settings.tileset;
    let kept: Vec<ZoomList> = manifest.kept.iter().filter_map(|region| region.zooms.parse().ok()).collect();
    let zooms = kept.iter().fold(tileset.zooms.clone(), |all, zooms| all.union(zooms));
    let drawn = |layer: &Layer| {
        let zooms = || zooms.iter().filter(|zoom| layer.zooms().contains(*zoom));
        Some((zooms().next()?.get(), zooms().next_back()?.get()))
    };
    let vector_layers = |layer: &Layer| {
        let Some((minzoom, maxzoom)) = drawn(layer) else { return Vec::new() };
        let declared = layer.function().map_or(&[][..], |function| &function.comment.vector_layers);
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
        let section = layer.section();
        let of_property =
            |name: &str| section.property_descriptions.as_ref().and_then(|texts| texts.get(name)).cloned();
        let fields = layer.fields();
        let fields = fields.map(|(name, kind)| (name.to_owned(), of_property(name).map_or(kind.into(), Into::into)));
        let description = section.description.clone().unwrap_or_default();
        vec![VectorLayer { id: layer.name().to_owned(), description, minzoom, maxzoom, fields: fields.collect() }]
    };
    let declared = |of: fn(&FunctionComment) -> &Option<String>| {
        layers.iter().find_map(|layer| of(&layer.function()?.comment).clone())
    };
    let bounds = before.and_then(|before| before.bounds).map_or(bounds, |old| bounds.joined(old));
    Ok(Metadata {
        name: tileset.name.clone(),
        format: settings.run.limits.packing.format,
        description: tileset.section.description.clone().or_else(|| declared(|comment| &comment.description)),
        attribution: tileset.section.attribution.clone().or_else(|| declared(|comment| &comment.attribution)),
        version: tileset.section.version.clone(),
        vector_layers: merged(layers.iter().flat_map(|layer| vector_layers(layer))),
        zooms,
        bounds,
        center: tileset.section.center,
        manifest: serde_json::to_string(manifest).map_err(std::io::Error::from)?,
    })
}

/// The description of a tileset that has no target: its manifest names no zooms.
pub(crate) fn of_no_target(settings: &Settings, layers: &[Arc<Layer>]) -> Result<Described, CommandError> {
    let manifest = Manifest {
        version: Manifest::version_with(&[]),
        generator: GENERATOR.to_owned(),
        fingerprint: fingerprint(settings, layers),
        started: seconds_now(),
        ..Manifest::default()
    };
    let boxes = settings.tileset.bbox.iter().flat_map(AreaPart::bounds);
    let bounds = boxes.reduce(LonLatBox::joined).unwrap_or(LonLatBox::WORLD);
    let metadata = metadata(settings, layers, bounds, &manifest, None)?;
    let zooms = metadata.zooms.iter().next().zip(metadata.zooms.iter().next_back());
    Ok(Described {
        name: Some(metadata.name),
        format: metadata.format,
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
        dead: None,
    })
}

// What a run reports about the budgets of its layers and about tiles that could not be rendered.

/// Why a tile could not be rendered.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TileCause(String);

fn name(names: &[String], layer: LayerId) -> String {
    names.get(usize::from(layer.0)).cloned().unwrap_or_default()
}

/// How far each layer's budget was kept. `names` are the names of the layers, by their ids.
fn budgets(outcome: &PipelineOutcome, names: &[String]) -> Vec<LayerBudget> {
    let of_layer = |(layer, stats): (&LayerId, &crate::pipeline::LayerStats)| LayerBudget {
        layer: name(names, *layer),
        thinned_tiles: stats.thinned,
        features_left_out: stats.left_out,
        large_tiles: stats.large,
        heaviest: stats.heaviest.map(|(heaviest, limit)| LargeTile {
            tile: heaviest.tile,
            bytes: heaviest.bytes,
            limit,
        }),
    };
    outcome.layers.iter().map(of_layer).collect()
}

/// How long a reseed does not repeat the warnings about a layer's budget: cron mails each of them.
const WARNING_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// Reports the warnings about budgets, and returns them. `warned` is when each layer was last warned of
/// ([`Manifest::warned`]), and is brought up to date; a layer that was warned of in the last 24 hours is not reported
/// again.
///
/// [`Manifest::warned`]: crate::manifest::Manifest::warned
pub(crate) fn warn(
    budgets: &[LayerBudget],
    warned: &mut BTreeMap<String, u64>,
    report: &Arc<dyn Report>,
) -> Vec<String> {
    let now = seconds_now();
    // A moment in the future is none: the clock was wrong.
    warned.retain(|_, then| now.checked_sub(*then).is_some_and(|seconds| seconds < WARNING_PAUSE.as_secs()));
    let mut all = Vec::new();
    for budget in budgets {
        let warnings = budget.warnings();
        if !warnings.is_empty() && !warned.contains_key(&budget.layer) {
            warned.insert(budget.layer.clone(), now);
            for message in &warnings {
                report.warn(message.clone());
            }
        }
        all.extend(warnings);
    }
    all
}

/// The tiles that could not be rendered, with the names of the layers.
fn failed(outcome: &PipelineOutcome, names: &[String]) -> Vec<FailedLayer> {
    let of_tile = |failed: &FailedTile| FailedLayer {
        tile: failed.tile,
        layer: name(names, failed.layer),
        cause: failed.cause.clone(),
    };
    outcome.failed.iter().map(of_tile).collect()
}

/// What a run says about its layers.
pub(crate) fn record(outcome: &PipelineOutcome, names: &[String]) -> LayerRecord {
    LayerRecord { budgets: budgets(outcome, names), failed: failed(outcome, names) }
}

/// The name of the layer that has the most bytes in the largest tile of a zoom.
pub(crate) fn largest_layer(zoom: &ZoomStats, names: &[String]) -> Option<String> {
    zoom.largest.map(|_| name(names, zoom.largest_layer))
}

/// The tiles that could not be rendered, for the manifest: those of earlier runs, and those of this run (`failed`).
pub(crate) fn with_failed(mut unrendered: Vec<String>, failed: &[FailedLayer]) -> Vec<String> {
    for failed in failed {
        let tile = failed.tile.to_string();
        // A tile in which several layers failed is listed once.
        if unrendered.last() != Some(&tile) {
            unrendered.push(tile);
        }
    }
    unrendered
}

/// Fails if the run had to leave tiles as they were: it is done only in part.
pub(crate) fn check_complete(target: &str, failed: &[FailedLayer]) -> Result<(), CommandError> {
    let Some(first) = failed.first() else { return Ok(()) };
    Err(CommandError::Unrendered {
        target: target.to_owned(),
        tiles: named(failed),
        source: TileCause(first.cause.clone()),
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
