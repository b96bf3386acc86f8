//! The survey: where every feature lies, read once, for planning.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};

use tokio::task::JoinHandle;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::error::Error;
use super::folds::Reader;
use super::layer::{Layer, Shape, quoted};
use super::query_values::QueryValues;
use super::session::Param;
use super::snapshot::Snapshot;
use super::sql;
use crate::cells::{CellCounts, CellGrid, Gathering, Members};
use crate::tile::{
    BoxFootprint, Coverage, Footprints, LayerFootprints, SourceBox, Spot, TileRect, WorldBox, WorldRect, Zoom,
    ZoomList, latitude, longitude, metres,
};

/// Rows that cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Why: "NULL", "empty", "not finite" (NaN or infinite coordinates), "unsupported" (a TIN, TRIANGLE or POLYHEDRALSURFACE),
    /// "outside" (beyond ±85.0511° or ±180°) or, of a query, "foreign" (in another reference system than the others).
    pub reason: String,
    /// How many.
    pub rows: u64,
    /// The keys of a few of them.
    pub examples: Vec<String>,
}

/// What one layer holds.
#[derive(Debug)]
pub struct Surveyed {
    /// Where its features lie.
    pub places: LayerFootprints,
    /// The cells, at the zooms at which nothing else has to be known of them.
    pub counted: Option<Arc<CellCounts>>,
    /// The rows that have to be gathered in cells when they are rendered, at the zooms at which they have to be.
    pub gathered: BTreeMap<Zoom, u64>,
    /// Rows that were left out.
    pub skipped: Vec<Skipped>,
}

/// Reads where a layer's features lie. Those that no tile of the coverage at one of the zooms shows may be left out.
///
/// # Errors
/// If the database cannot be asked, or a stop was asked for.
pub async fn survey(
    snapshot: &Snapshot,
    layer: &Layer,
    coverage: &Coverage,
    zooms: &ZoomList,
) -> Result<Surveyed, Error> {
    if !zooms.iter().any(|zoom| layer.zooms.contains(zoom)) {
        return Ok(Surveyed {
            places: LayerFootprints::ByZoom(BTreeMap::new()),
            counted: None,
            gathered: BTreeMap::new(),
            skipped: Vec::new(),
        });
    }
    let shown: Vec<Zoom> = zooms.iter().filter(|zoom| layer.zooms.contains(*zoom)).collect();
    if layer.folds.is_some() {
        snapshot.keeper.save().await?;
        match looked(Look { snapshot, layer, coverage }, &shown).await {
            Err(Error::Query { source, .. } | Error::Layer { source: Some(source), .. }) => {
                // A value may be folded of a row that no tile needs: it is left to the tiles.
                tracing::debug!("layer \"{}\": its aggregates are not folded: {source}", layer.name);
                snapshot.keeper.restart().await?;
            }
            done => return done,
        }
    }
    let plain = Layer { folds: None, ..layer.clone() };
    looked(Look { snapshot, layer: &plain, coverage }, &shown).await
}

async fn looked(look: Look<'_>, shown: &[Zoom]) -> Result<Surveyed, Error> {
    let layer = look.layer;
    if !layer.asks_each_zoom() {
        let Seen { places, counts, gathered, left_out } = look.at(shown).await?;
        let skipped = if left_out > 0 { look.skipped(shown).await? } else { Vec::new() };
        return Ok(Surveyed { places, counted: counts.map(Arc::new), gathered, skipped });
    }
    let (mut all, mut counted, mut gathered, mut most) = (BTreeMap::new(), None, BTreeMap::new(), (0, None));
    for &zoom in shown {
        let Seen { places, counts, gathered: rows, left_out } = look.at(&[zoom]).await?;
        gathered.extend(rows);
        if let Some(counts) = counts {
            counted.get_or_insert_with(CellCounts::default).join(counts);
        }
        match places {
            LayerFootprints::Same(footprints) if layer.is_found_by_area() => {
                drop(all.insert(zoom, footprints.compact()));
            }
            LayerFootprints::Same(footprints) => drop(all.insert(zoom, footprints)),
            LayerFootprints::ByZoom(own) => all.extend(own),
        }
        most = most.max((left_out, Some(zoom)));
    }
    // Mostly the same rows are left out at many zooms: they are named once.
    let skipped = match most {
        (1.., Some(zoom)) => look.skipped(&[zoom]).await?,
        _ => Vec::new(),
    };
    Ok(Surveyed { places: LayerFootprints::ByZoom(all), counted: counted.map(Arc::new), gathered, skipped })
}

/// What one look has seen.
struct Seen {
    /// The same for all the zooms, unless features are put together in cells.
    places: LayerFootprints,
    /// The cells, if their counts are all that is to be known.
    counts: Option<CellCounts>,
    /// Else the rows that are put together.
    gathered: BTreeMap<Zoom, u64>,
    /// Rows that cannot be drawn.
    left_out: u64,
}

/// A look at where a layer's features lie.
struct Look<'a> {
    snapshot: &'a Snapshot,
    layer: &'a Layer,
    coverage: &'a Coverage,
}

impl Look<'_> {
    fn place(&self) -> String {
        format!("layer \"{}\", reading where its features lie", self.layer.name)
    }

    /// Where its features lie at some zooms.
    async fn at(&self, zooms: &[Zoom]) -> Result<Seen, Error> {
        let Look { snapshot, layer, coverage } = *self;
        let boxes = search_boxes(layer, coverage, zooms);
        let statement = sql::survey(layer, boxes.as_ref().map_or(0, |columns| columns[0].len()));
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = boxes.iter().flatten().map(|column| (column as _, Type::FLOAT8_ARRAY));
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let mut left_out = 0_u64;
        let (mut points, mut boxes) = (Vec::new(), Vec::new());
        let mut cells = layer.grid().map(|grid| Gatherer::start(layer, grid, zooms));
        let each = |row: &Row| {
            let seen = if let Some(cells) = &mut cells {
                cells.add(row)
            } else if layer.shape.is_closed_form() {
                row.get::<_, Option<i64>>(0).map(|position| points.push(position.cast_unsigned()))
            } else {
                box_footprint(row).map(|footprint| boxes.push(footprint))
            };
            left_out += u64::from(seen.is_none());
            Ok(())
        };
        snapshot
            .keeper
            .each(&self.place(), &statement, &params, each)
            .await
            .map_err(|error| explained(error, layer))?;
        let (mut counts, mut gathered) = (None, BTreeMap::new());
        let places = match cells {
            Some(cells) => {
                let (rows, (places, counted)) = cells.finish().await;
                counts = layer.is_counted_by_survey().then_some(counted);
                let is_counted = |zoom: &Zoom| counts.as_ref().is_some_and(|counts| counts.has(*zoom));
                gathered = zooms.iter().filter(|zoom| !is_counted(zoom)).map(|zoom| (*zoom, rows)).collect();
                places
            }
            None if layer.shape.is_closed_form() => LayerFootprints::Same(Footprints::Points(points)),
            None => LayerFootprints::Same(Footprints::Boxes(boxes)),
        };
        Ok(Seen { places, counts, gathered, left_out })
    }

    /// The rows that cannot be drawn.
    async fn skipped(&self, zooms: &[Zoom]) -> Result<Vec<Skipped>, Error> {
        let values = QueryValues::of_coverage(self.layer, self.coverage, zooms);
        let params: Vec<Param<'_>> = values.params(self.layer).collect();
        let rows = self.snapshot.keeper.all(&self.place(), &sql::skipped(self.layer), &params).await?;
        let skipped = rows.iter().map(|row| {
            let rows: i64 = row.get(1);
            Skipped { reason: row.get(0), rows: rows.cast_unsigned(), examples: row.get(2) }
        });
        Ok(skipped.collect())
    }
}

/// Where the geometries of another relation lie, as the layer places its own: those of its rows, then and now, or any others. The relation is an item of a FROM list, the geometries are in the layer's reference system, of any kind.
///
/// # Errors
/// If the database cannot be asked, or a stop was asked for.
pub async fn places(
    snapshot: &Snapshot,
    layer: &Layer,
    place: &str,
    relation: &str,
    geometry: &str,
    are_rows: bool,
    mut each: impl FnMut(Spot),
) -> Result<(), Error> {
    let shape = Shape { points: false, geography: false, ..layer.shape };
    let (relation, geometry) = (relation.to_owned(), quoted(geometry));
    // What is no row of the layer may lie in many cells.
    let cells = layer.cells.clone().filter(|_| are_rows);
    // Rows beyond the edge may have been deleted since.
    let (query, filter, reaches_beyond) = (None, None, true);
    let over = Layer { relation, query, geometry, shape, filter, cells, reaches_beyond, ..layer.clone() };
    let each = |row: &Row| {
        if over.cells.is_some() {
            if let Some(at) = position(row) {
                each(Spot::Point(at));
            }
        } else if let Some(footprint) = box_footprint(row) {
            each(Spot::Box(footprint.world));
        }
        Ok(())
    };
    snapshot.keeper.each(place, &sql::survey(&over, 0), &[], each).await.map_err(|error| explained(error, layer))
}

/// PROJ refuses coordinates far outside a projected system; the message alone does not say what to do.
pub(super) fn explained(error: Error, layer: &Layer) -> Error {
    match error {
        Error::Query { source, .. } if source.to_string().contains("Cannot find SRID") => Error::Layer {
            layer: layer.name.clone(),
            what: format!(
                "the geometries in {} of {} have SRID {}, which the table spatial_ref_sys does not have",
                layer.geometry, layer.called, layer.shape.srid
            ),
            next: "Add it there, or set the right one with ST_SetSRID".to_owned(),
            source: Some(source),
        },
        Error::Query { source, .. } if source.to_string().contains("transform") => Error::Layer {
            layer: layer.name.clone(),
            what: format!("a geometry cannot be brought from SRID {} to Web Mercator", layer.shape.srid),
            next: format!(
                "Look for coordinates far outside of that reference system, and mend them or leave them out with where ({} && ST_MakeEnvelope(…, {}))",
                layer.geometry, layer.shape.srid
            ),
            source: Some(source),
        },
        Error::Query { source, .. } if layer.asks_each_tile() && source.to_string().contains("mixed SRID") => {
            Error::Layer {
                layer: layer.name.clone(),
                what: format!(
                    "its query compares !bbox!, which is in EPSG:{} as its geometry {} is, with a geometry in another system",
                    layer.shape.srid, layer.geometry
                ),
                next: "Bring it there: ST_Transform(!bbox!, …)".to_owned(),
                source: Some(source),
            }
        }
        other => other,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the halves are 32 bits wide")]
fn box_footprint(row: &Row) -> Option<BoxFootprint> {
    let (first, second): (i64, i64) = (row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?);
    let world = WorldBox::new((first >> 32) as u32, first as u32, (second >> 32) as u32, second as u32);
    Some(BoxFootprint { world, source: source_box(row)? })
}

/// Gathers members in cells on a thread of its own, while the database goes on finding them.
struct Gatherer {
    /// The members' boxes are needed: no closed formula leads from an area to them.
    needs_boxes: bool,
    /// Reads what is folded of them.
    reader: Option<Reader>,
    next: Members,
    found: mpsc::Sender<Members>,
    gathering: JoinHandle<Gathering>,
}

impl Gatherer {
    /// Members handed over at a time.
    const MEMBERS: usize = 16_384;

    fn start(layer: &Layer, grid: CellGrid, zooms: &[Zoom]) -> Gatherer {
        let (found, members) = mpsc::channel();
        let needs_boxes = !layer.is_found_by_area();
        let folds = layer.folds.as_deref();
        let reader = folds.map(|folds| Reader::new(folds, if needs_boxes { 6 } else { 2 }));
        let mut gathering = Gathering::new(grid, zooms, folds.map(|folds| folds.wanted(layer)));
        let gathering = tokio::task::spawn_blocking(move || {
            for members in members {
                gathering.add(members);
            }
            gathering
        });
        Gatherer { needs_boxes, reader, next: Members::default(), found, gathering }
    }

    /// A row, if it can be placed.
    fn add(&mut self, row: &Row) -> Option<()> {
        let at = position(row)?;
        if self.needs_boxes {
            self.next.source.push(source_box(row)?);
        }
        self.next.at.push(at);
        if !self.reader.as_mut().is_none_or(|reader| reader.read(row, &mut self.next.values)) {
            tracing::debug!("there are too many different values to count them at once");
            self.reader = None;
        }
        if self.next.len() == Self::MEMBERS {
            self.hand_over();
        }
        Some(())
    }

    fn hand_over(&mut self) {
        let members = std::mem::take(&mut self.next);
        // A thread that is gone has panicked, which shows when it is joined.
        if self.found.send(members).is_err() {
            tracing::debug!("the cells are not gathered any more");
        }
    }

    /// How many members there were, and their cells.
    async fn finish(mut self) -> (u64, (LayerFootprints, CellCounts)) {
        self.hand_over();
        let Gatherer { found, gathering, .. } = self;
        drop(found);
        let gathering = gathering.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let rows = gathering.count();
        let finishing = tokio::task::spawn_blocking(move || gathering.finish());
        (rows, finishing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())))
    }
}

fn position(row: &Row) -> Option<[f64; 2]> {
    Some([row.get::<_, Option<f64>>(0)?, row.get::<_, Option<f64>>(1)?])
}

/// The box in the reference system of the column, rounded outwards; `min_x` is greater than `max_x` where it runs over ±180°.
#[expect(clippy::cast_possible_truncation, reason = "rounding outwards follows")]
fn source_box(row: &Row) -> Option<SourceBox<f32>> {
    let side = |column: usize| row.get::<_, Option<f64>>(column);
    let (x0, y0, x1, y1) = (side(2)?, side(3)?, side(4)?, side(5)?);
    let below = |value: f64| if f64::from(value as f32) > value { (value as f32).next_down() } else { value as f32 };
    let above = |value: f64| if f64::from(value as f32) < value { (value as f32).next_up() } else { value as f32 };
    if x0 > x1 {
        // Over ±180° each end is looked for by itself: it has to lie in the row.
        return Some(SourceBox { min_x: above(x0), min_y: below(y0), max_x: below(x1), max_y: above(y1) });
    }
    Some(SourceBox { min_x: below(x0), min_y: below(y0), max_x: above(x1), max_y: above(y1) })
}

/// Where to look for the features of a coverage: west, south, east, north, one element a box. `None` if all are wanted or
/// the reference system has no closed formula.
pub(super) fn search_boxes(layer: &Layer, coverage: &Coverage, zooms: &[Zoom]) -> Option<[Vec<f64>; 4]> {
    if coverage.is_world() || !matches!(layer.shape.srid, 3857 | 4326) {
        return None;
    }
    // The tiles of the shallowest zoom reach farthest beyond the boxes.
    let shallowest = *zooms.first()?;
    let mut columns: [Vec<f64>; 4] = Default::default();
    for rect in coverage.rects(shallowest) {
        let own = area_box(layer, &rect, shallowest);
        for shifted in std::iter::once(own).chain(shifted_boxes(layer, own)) {
            columns.iter_mut().zip(shifted.sides()).for_each(|(column, side)| column.push(side));
        }
    }
    Some(columns)
}

/// The boxes in which rows lie that are wrapped into a box of a closed-form system.
fn shifted_boxes(layer: &Layer, own: SourceBox) -> impl Iterator<Item = SourceBox> {
    let width = layer.shape.edge.filter(|_| layer.is_wrapped()).map(|units| 2.0 * units.half());
    width.into_iter().flat_map(move |width| {
        [width, -width].map(|by| SourceBox { min_x: own.min_x + by, max_x: own.max_x + by, ..own })
    })
}

/// The box, in degrees or metres, in which a layer's features of an area lie, buffer included.
pub(super) fn area_box(layer: &Layer, rect: &TileRect, zoom: Zoom) -> SourceBox {
    // Two units more than the tiles' margin take in every rounding on the way.
    world_box(layer, rect.world(layer.reach(zoom) + 2))
}

/// A rectangle of the world in degrees or metres, whichever the layer's reference system has.
pub(super) fn world_box(layer: &Layer, rect: WorldRect) -> SourceBox {
    let WorldRect { west, north, east, south } = rect;
    let half = metres(crate::tile::WORLD_UNITS / 2);
    if layer.shape.srid == 3857 {
        return SourceBox {
            min_x: metres(west) - half,
            min_y: half - metres(south),
            max_x: metres(east) - half,
            max_y: half - metres(north),
        };
    }
    SourceBox {
        min_x: longitude(west).max(-180.0),
        min_y: latitude(south).max(-90.0),
        max_x: longitude(east).min(180.0),
        max_y: latitude(north).min(90.0),
    }
}
