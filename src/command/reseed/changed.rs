//! Which tiles are dirty, and why.

use std::sync::Arc;

use super::given::{MOST_LISTED, TileListError};
use super::known::Known;
use super::{ReseedOptions, What};
use crate::changes::{self, Watch, changed_places, pending};
use crate::command::CommandError;
use crate::command::target::{Place, Reach};
use crate::patch::ChangedPositions;
use crate::plan::{Dirty, DrawnLayer, ScopePart};
use crate::postgis::{Layer, Snapshot, survey};
use crate::report::{Reason, UNRENDERED};
use crate::tile::{Coverage, LayerIndex, LonLatBox, Spot, WorldRect, ZoomList};

/// What there is to do.
pub(super) enum Work {
    /// Nothing has changed.
    Nothing,
    /// These tiles are to be rendered.
    Some(Changed),
    /// So much has changed that rendering everything costs less; for these reasons.
    All(Vec<Reason>),
}

/// Dirty tiles.
pub(super) struct Changed {
    pub(super) dirty: Dirty,
    pub(super) reasons: Vec<Reason>,
    /// Where points have changed.
    pub(super) spots: ChangedPositions,
    /// The rectangle around all changes.
    pub(super) around: Option<WorldRect>,
    /// Whether the target is up to date once these tiles are rendered.
    pub(super) complete: bool,
}

impl Changed {
    fn new(dirty: Dirty, complete: bool) -> Changed {
        Changed { dirty, reasons: Vec::new(), spots: ChangedPositions::default(), around: None, complete }
    }

    /// No dirty tile at all.
    pub(super) fn nothing(known: &Known) -> Changed {
        Changed::new(Dirty::new(&known.parts, usize::MAX), true)
    }

    fn note(&mut self, spot: Spot) {
        let mut world = spot.world();
        // Bounds do not run over ±180°.
        if world.crosses_antimeridian() {
            (world.west, world.east) = (0, u32::MAX);
        }
        let one = WorldRect::from(world);
        self.around = Some(self.around.map_or(one, |around| around.joined(one)));
    }

    /// The box around all changes in degrees.
    pub(super) fn bounds(&self) -> Option<LonLatBox> {
        self.around.map(LonLatBox::from)
    }
}

/// Where and how far a layer is drawn.
pub(super) fn drawn(layer: &Layer) -> DrawnLayer {
    DrawnLayer { zooms: layer.zooms().clone(), margin: layer.margin(), grid: layer.grid() }
}

/// Fewer dirty tiles than this are always told apart.
const FEW: u64 = 20_000;

/// So many dirty tiles are told apart at most: more than a third of the target cost as much as all of it, which is rendered in
/// large pieces.
fn most(known: &Known) -> usize {
    usize::try_from((known.manifest.stored / 3).max(FEW)).unwrap_or(usize::MAX)
}

/// After so many places it is seen where this leads to.
const FIRST: u64 = 4_000;

/// How many dirty tiles there are going to be if so many of the first places made so many, and others are like them.
fn are_going_to_be(dirty: u64, rows: u64) -> u64 {
    dirty.saturating_mul(rows / FIRST)
}

/// The tiles in which a change noted since the target's snapshot can be seen.
pub(super) async fn from_log(
    snapshot: &Snapshot,
    schema: &str,
    known: &Known,
    (layers, watches): (&[Arc<Layer>], &[Vec<Watch>]),
    options: &ReseedOptions,
) -> Result<Work, CommandError> {
    let pending = pending(snapshot, schema, &known.cursor).await?;
    let noted = |watch: &Watch| pending.iter().find(|pending| pending.watch == watch.id);
    let rows_of = |watch: &Watch| noted(watch).map_or(0, |found| found.rows);
    let mut seen: Vec<i32> = Vec::new();
    let mut reasons: Vec<Reason> = Vec::new();
    for watch in watches.iter().flatten() {
        let rows = rows_of(watch);
        if rows == 0 || seen.contains(&watch.id) {
            continue;
        }
        seen.push(watch.id);
        let seconds = noted(watch).map_or(0.0, |found| found.age);
        match reasons.iter_mut().find(|reason| reason.what == watch.table) {
            Some(reason) => {
                reason.rows += rows;
                reason.seconds = reason.seconds.max(seconds);
            }
            None => reasons.push(Reason { what: watch.table.clone(), rows, seconds }),
        }
    }
    // A watch would try them again and again; it does with the next change.
    let again = if options.watch.is_some() && reasons.is_empty() { &[][..] } else { &known.unrendered };
    if reasons.is_empty() && again.is_empty() {
        return Ok(Work::Nothing);
    }
    let narrowed = options.zoom.is_some() || !options.bbox.is_empty();
    // Only a target of one part is rendered anew by one seed.
    let may_seed = !narrowed && known.parts.len() == 1;
    let most = if may_seed { most(known) } else { usize::MAX };
    let rows: u64 = reasons.iter().map(|reason| reason.rows).sum();
    if rows > most as u64 {
        return Ok(Work::All(reasons));
    }
    let mut dirty = Dirty::new(&known.parts, most);
    if narrowed {
        dirty.narrow(options.zoom.as_ref(), &Coverage::new(&options.bbox));
    }
    let mut once_more = 0;
    for tile in again {
        match dirty.mark_tile(*tile) {
            Ok(belongs) => once_more += u64::from(belongs),
            Err(_too_many) => return Ok(Work::All(reasons)),
        }
    }
    if once_more > 0 {
        reasons.push(Reason { what: UNRENDERED.to_owned(), rows: once_more, seconds: 0.0 });
    } else if reasons.is_empty() {
        return Ok(Work::Nothing);
    }
    let mut changed = Changed::new(dirty, !narrowed);
    changed.reasons = reasons;
    changed.spots = ChangedPositions::new(layers.iter().map(|layer| layer.as_points().is_some()));
    for (number, (layer, watches)) in layers.iter().zip(watches).enumerate() {
        let drawn = drawn(layer);
        for watch in watches.iter().filter(|watch| rows_of(watch) > 0) {
            let (mut too_many, mut seen) = (false, 0);
            if let changes::PositionSource::Query { .. } = watch.place {
                // It may name no more than the neighbourhood.
                changed.spots.forget(LayerIndex(number));
            }
            let each = |spot| {
                if too_many {
                    return;
                }
                changed.note(spot);
                changed.spots.add(LayerIndex(number), spot);
                seen += 1;
                too_many = changed.dirty.mark(&drawn, spot).is_err()
                    || seen == FIRST
                        && are_going_to_be(changed.dirty.len() as u64, rows_of(watch))
                            > (most as u64).saturating_mul(2);
            };
            changed_places(snapshot, schema, &known.cursor, watch, layer, each).await?;
            if too_many {
                return Ok(Work::All(changed.reasons));
            }
        }
    }
    Ok(Work::Some(changed))
}

/// The tiles that the user names.
pub(super) async fn from_user(
    snapshot: &Snapshot,
    known: &Known,
    layers: &[Arc<Layer>],
    what: &What,
    (place, reach): (&Place, &Reach),
) -> Result<Work, CommandError> {
    let mut changed = Changed::new(Dirty::new(&known.parts, MOST_LISTED), false);
    match what {
        What::Log => {}
        What::Tiles(list) => {
            let (list, mut dirty) = (list.clone(), changed.dirty);
            changed.dirty = crate::command::seed::aside(move || {
                list.mark(&mut dirty)?;
                Ok::<_, TileListError>(dirty)
            })
            .await??;
            changed.reasons.push(Reason { what: "--tiles".to_owned(), rows: changed.dirty.len() as u64, seconds: 0.0 });
        }
        What::Area(boxes) => {
            let coverage = Coverage::new(boxes);
            changed.dirty.narrow(None, &coverage);
            let too_many = |_too_many| CommandError::NoArea {
                text: boxes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
                what: format!("it has more than {MOST_LISTED} tiles: seed the target instead"),
            };
            let zooms = zooms(&known.parts, &known.manifest.zooms)?;
            for layer in layers {
                let places = survey(snapshot, layer, None, &coverage, &zooms).await?.places;
                changed.dirty.mark_all(&drawn(layer), &places).map_err(too_many)?;
            }
            // Tiles in which nothing is drawn any more.
            let (place, reach) = (place.clone(), reach.clone());
            let held = crate::command::seed::aside(move || reach.reader(&place)?.list().map_err(CommandError::from));
            for id in held.await?? {
                changed.dirty.mark_tile(id.coord).map_err(too_many)?;
            }
            changed.reasons.push(Reason { what: "--area".to_owned(), rows: changed.dirty.len() as u64, seconds: 0.0 });
        }
    }
    Ok(Work::Some(changed))
}

/// All zooms of a tileset.
fn zooms(parts: &[ScopePart], own: &str) -> Result<ZoomList, CommandError> {
    let own = own.parse().map_err(|error: crate::tile::ZoomError| CommandError::Pipeline(error.to_string()))?;
    Ok(parts.iter().fold(own, |all: ZoomList, part| all.union(&part.zooms)))
}
