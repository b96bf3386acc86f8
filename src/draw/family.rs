//! The rows of a layer for all variants of a tileset. They are read once, with the variants to which each row belongs.
//! Each variant then draws from its part of the rows, without queries.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::cached_rows::{CachedRows, MostFeatures};
use super::drawing::join_tiles;
use super::family_tiles::FamilyTiles;
use super::{BatchTiles, PreparedLayer};
use crate::postgis::layer::{
    Layer, QueryValues, ROUNDING_UNITS, filled_parameters, search_boxes, shifted_boxes, world_box,
};
use crate::postgis::session::{Error, Param, Snapshot, quoted};
use crate::postgis::sql;
use crate::postgis::variants::{VariantParameter, VariantTable};
use crate::source::{RenderedTile, Source};
use crate::stop::Stop;
use crate::threads::blocking;
use crate::tile::{
    Area, Batch, Coverage, Footprints, LayerFootprints, SortedPoints, WorldBox, WorldRect, Zoom, ZoomList,
};

/// The cost of a statement in addition to that of its plan, in the planner's units: a round trip, and the planning.
const COST_OF_STATEMENT: f64 = 50.0;

/// The rows of one layer for all variants.
#[derive(Debug)]
pub(crate) struct FamilyRows {
    layer: Arc<Layer>,
    rows: Arc<CachedRows>,
    /// The numbers of each variant's rows; `None` if each variant has all of them.
    members: Option<Vec<Vec<u32>>>,
}

/// The condition that selects a variant's rows of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FamilyCondition<'a> {
    /// The condition as configured, with `!name!` for the values.
    pub sql: &'a str,
    pub table: &'a VariantTable,
}

impl FamilyCondition<'_> {
    /// The condition over the columns of the values.
    pub(crate) fn joined(&self, layer: &Layer) -> Result<String, Error> {
        self.filled(layer, |number, kind| format!("({}::{kind})", sql::value_column(number)))
    }

    /// The condition over parameters, which are texts.
    fn of_one(&self, layer: &Layer, first: usize) -> Result<String, Error> {
        self.filled(layer, |number, kind| format!("(${}::text::{kind})", first + number))
    }

    fn filled(&self, layer: &Layer, sql_of: impl Fn(usize, &str) -> String) -> Result<String, Error> {
        let parameters: &[VariantParameter] = &self.table.parameters;
        let filled = filled_parameters(self.sql, |name| {
            let number = parameters.iter().position(|parameter| parameter.name == name)?;
            Some(sql_of(number, &parameters[number].kind))
        });
        filled.map_err(|error| Error::Layer {
            layer: layer.name.clone(),
            what: format!("its condition for variants {error}"),
            next: "Write the names of the values".to_owned(),
            source: None,
        })
    }
}

/// A layer of one variant, ready to be planned and drawn.
#[derive(Debug)]
pub(crate) struct VariantLayer {
    pub prepared: PreparedLayer,
    /// The positions of the rows.
    pub footprints: LayerFootprints,
    pub rows: u64,
}

impl PreparedLayer {
    /// The layer's cached rows, if every variant has all of them. `layer` is the layer as it is in a variant. `None` if
    /// the rows are not in memory.
    pub(crate) fn for_all_variants(&self, layer: Arc<Layer>) -> Option<FamilyRows> {
        let rows = self.cached_rows().filter(|rows| rows.are_in_memory())?;
        Some(FamilyRows { layer, rows: Arc::clone(rows), members: None })
    }

    /// The layer's cached rows for all variants, divided by `condition`. `layer` is the layer as it is in a variant.
    /// `None` if the rows are not in memory, or the statements fail.
    pub(crate) async fn for_variants(
        &self,
        snapshot: &Snapshot,
        layer: Arc<Layer>,
        condition: FamilyCondition<'_>,
        coverage: &Coverage,
        zooms: &ZoomList,
    ) -> Result<Option<FamilyRows>, Error> {
        let Some(all) = self.for_all_variants(layer) else { return Ok(None) };
        snapshot.keeper.set_savepoint().await?;
        let zooms = self.layer().drawn_zooms(zooms);
        let reading = MembersReading { snapshot, layer: self.layer(), condition, coverage, zooms: &zooms };
        let members = Box::pin(reading.members(all.rows.count())).await;
        let instead = "its rows are read for each variant by itself";
        let members = snapshot.keeper.or_without(members, &self.layer().name, instead).await?.flatten();
        Ok(members.map(|members| FamilyRows { members: Some(members), ..all }))
    }
}

impl FamilyRows {
    pub(crate) fn of_variant(&self, number: usize) -> VariantLayer {
        match self.members.as_ref().map(|members| members.get(number).map_or(&[][..], Vec::as_slice)) {
            None => self.with(Arc::clone(&self.rows)),
            Some(numbers) => self.with(Arc::new(self.rows.some(numbers))),
        }
    }

    fn with(&self, rows: Arc<CachedRows>) -> VariantLayer {
        let points = rows.worlds();
        VariantLayer {
            rows: points.len() as u64,
            footprints: LayerFootprints::Same(Footprints::Points(SortedPoints::new(points))),
            prepared: PreparedLayer::new(&self.layer).with_cached_rows(Some(rows)),
        }
    }
}

/// Reads which rows belong to which variant.
struct MembersReading<'a> {
    snapshot: &'a Snapshot,
    layer: &'a Layer,
    condition: FamilyCondition<'a>,
    coverage: &'a Coverage,
    zooms: &'a [Zoom],
}

impl MembersReading<'_> {
    /// The numbers of the rows of each variant; `None` if the rows differ from the cached rows.
    async fn members(&self, rows: usize) -> Result<Option<Vec<Vec<u32>>>, Error> {
        let MembersReading { snapshot, layer, condition: FamilyCondition { table, .. }, coverage, zooms } = self;
        let context = format!("layer \"{}\", reading which rows belong to which variant", layer.name);
        let boxes = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = boxes.iter().flatten().map(|column| -> Param<'_> { (column as _, Type::FLOAT8_ARRAY) });
        let own: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let boxes = boxes.as_ref().map_or(0, |columns| columns[0].len());
        let mut numbers: HashMap<String, u32> = HashMap::with_capacity(rows);
        let mut count = 0_u32;
        let each = |row: &Row| {
            numbers.insert(row.get(0), count);
            count += 1;
            Ok(())
        };
        snapshot.keeper.each(&context, &sql::row_keys(layer, boxes), &own, each).await?;
        // Rows with equal keys cannot be distinguished.
        if count as usize != rows || numbers.len() != rows {
            return Ok(None);
        }
        let mut members: Vec<Vec<u32>> = vec![Vec::new(); table.rows.len()];
        let kinds: Vec<String> = table.parameters.iter().map(|parameter| parameter.kind.clone()).collect();
        let joined = sql::members(layer, boxes, &self.condition.joined(layer)?, &kinds);
        let columns: Vec<Vec<&str>> =
            (0..kinds.len()).map(|n| table.rows.iter().map(|row| row[n].as_str()).collect()).collect();
        let arrays = columns.iter().map(|column| -> Param<'_> { (column, Type::TEXT_ARRAY) });
        let params: Vec<Param<'_>> = own.iter().cloned().chain(arrays).collect();
        let single = sql::members_of_one(layer, boxes, &self.condition.of_one(layer, sql::first_value(layer, boxes))?);
        let of_row = |row: usize| -> Vec<Param<'_>> {
            let texts = table.rows[row].iter().map(|value| -> Param<'_> { (value, Type::TEXT) });
            own.iter().cloned().chain(texts).collect()
        };
        let by_join = self.cost(&context, &joined, &params).await?;
        let each_costs = self.cost(&context, &single, &of_row(0)).await? + COST_OF_STATEMENT;
        let by_one = each_costs * table.rows.len() as f64;
        tracing::debug!("layer \"{}\": variants cost {by_join} by one join, {by_one} one by one", layer.name);
        if by_join <= by_one {
            let each = |row: &Row| {
                let number = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
                if let (Some(own), Some(row)) = (members.get_mut(number), numbers.get(row.get::<_, &str>(1))) {
                    own.push(*row);
                }
                Ok(())
            };
            snapshot.keeper.each(&context, &joined, &params, each).await?;
        } else {
            for (number, own) in members.iter_mut().enumerate() {
                let each = |row: &Row| {
                    own.extend(numbers.get(row.get::<_, &str>(0)));
                    Ok(())
                };
                snapshot.keeper.each(&context, &single, &of_row(number), each).await?;
            }
        }
        for own in &mut members {
            own.sort_unstable();
            // A join may return a row twice.
            own.dedup();
        }
        Ok(Some(members))
    }

    /// What the planner expects a statement to cost.
    async fn cost(&self, context: &str, statement: &str, params: &[Param<'_>]) -> Result<f64, Error> {
        let plan = self.snapshot.all(context, &format!("EXPLAIN {statement}"), params).await?;
        let cost = |line: &str| line.split_once("..")?.1.split_whitespace().next()?.parse().ok();
        Ok(plan.first().and_then(|row| cost(row.get::<_, &str>(0))).unwrap_or(f64::MAX))
    }
}

/// A source that draws only from cached rows.
pub(crate) struct CachedRenderer {
    layers: Arc<Vec<PreparedLayer>>,
    shared: Option<Arc<FamilyTiles>>,
    stop: Stop,
}

impl CachedRenderer {
    /// A source of some layers, whose rows must all be cached. Tiles that other targets have packed already are taken
    /// from `shared`, which is for one layer.
    pub(crate) fn new(
        layers: &Arc<Vec<PreparedLayer>>,
        shared: Option<&Arc<FamilyTiles>>,
        stop: &Stop,
    ) -> CachedRenderer {
        CachedRenderer { layers: Arc::clone(layers), shared: shared.cloned(), stop: stop.clone() }
    }

    /// Renders a batch on this thread.
    pub(crate) fn render_here(&self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        if self.stop.asked().is_some() {
            return Err(Error::Interrupted);
        }
        let planned: Vec<u64> = batch.layers.iter().map(|layer| layer.tiles).collect();
        Ok(drawn(&self.layers, &batch.areas, &planned, self.shared.as_deref())?.into_values().collect())
    }
}

impl Source for CachedRenderer {
    type Error = Error;

    async fn render(&mut self, batch: &Batch) -> Result<Vec<RenderedTile>, Error> {
        let (layers, shared, areas) = (Arc::clone(&self.layers), self.shared.clone(), batch.areas.clone());
        let planned: Vec<u64> = batch.layers.iter().map(|layer| layer.tiles).collect();
        let drawing = blocking(move || drawn(&layers, &areas, &planned, shared.as_deref()));
        let tiles = tokio::select! {
            biased;
            _ = self.stop.wait() => return Err(Error::Interrupted),
            drawn = drawing => drawn?,
        };
        Ok(tiles.into_values().collect())
    }
}

/// The tiles of some areas.
fn drawn(
    layers: &[PreparedLayer],
    areas: &[Area],
    planned: &[u64],
    shared: Option<&FamilyTiles>,
) -> Result<BatchTiles, Error> {
    let mut tiles = BatchTiles::new();
    for (index, (layer, planned)) in layers.iter().zip(planned).enumerate().filter(|(_, (_, planned))| **planned > 0) {
        let needs_database = || Error::NeedsDatabase { layer: layer.layer().name.clone() };
        let rows = layer.cached_rows().ok_or_else(needs_database)?;
        let drawn = rows.draw(layer.layer(), index, areas, &MostFeatures::default(), shared);
        if !drawn.left.is_empty() || drawn.count.tiles != *planned {
            return Err(needs_database());
        }
        join_tiles(&mut tiles, drawn.tiles);
    }
    Ok(tiles)
}

// Finds the variants of a tileset that have rows in some boxes.

/// The most boxes of one statement.
pub(crate) const MAX_PLACES: usize = 1_000;

/// The rows of a layer in some boxes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacedRows<'a> {
    /// The layer, without the condition of variants.
    pub layer: &'a Layer,
    /// The name that the condition may use for a row: the name of the table, or of the layer if its rows come from a
    /// query.
    pub name: &'a str,
    /// Boxes in world units, at most [`MAX_PLACES`].
    pub places: &'a [WorldBox],
}

/// The numbers, counted from 0, of the variants that have rows in some boxes; variants without such rows may be among
/// them. `None` if the statement fails: then nothing is known about the variants.
pub(crate) async fn members_at(
    snapshot: &Snapshot,
    rows: PlacedRows<'_>,
    condition: FamilyCondition<'_>,
) -> Result<Option<BTreeSet<usize>>, Error> {
    let PlacedRows { layer, name, places } = rows;
    let table = condition.table;
    let context = format!("layer \"{}\", reading to which variants changed rows belong", layer.name);
    let kinds: Vec<String> = table.parameters.iter().map(|parameter| parameter.kind.clone()).collect();
    let statement = sql::members_near(layer, &quoted(name), &condition.joined(layer)?, &kinds);
    let boxes = boxes_of(layer, places);
    let columns: Vec<Vec<&str>> =
        (0..kinds.len()).map(|n| table.rows.iter().map(|row| row[n].as_str()).collect()).collect();
    let boxes = boxes.iter().map(|column| -> Param<'_> { (column, Type::FLOAT8_ARRAY) });
    let params: Vec<Param<'_>> =
        boxes.chain(columns.iter().map(|column| -> Param<'_> { (column, Type::TEXT_ARRAY) })).collect();
    let mut members = BTreeSet::new();
    let each = |row: &Row| {
        members.extend(usize::try_from(row.get::<_, i64>(0) - 1));
        Ok(())
    };
    snapshot.keeper.set_savepoint().await?;
    let read = snapshot.keeper.each(&context, &statement, &params, each).await;
    let read = snapshot.keeper.or_without(read, &layer.name, "each variant is looked at by itself").await?;
    Ok(read.map(|()| members))
}

/// The sides of the boxes in the reference system of the layer's column: west, south, east, north.
fn boxes_of(layer: &Layer, places: &[WorldBox]) -> [Vec<f64>; 4] {
    let mut columns: [Vec<f64>; 4] = Default::default();
    for place in places {
        let mut rect = WorldRect::from(*place);
        if place.crosses_antimeridian() {
            (rect.west, rect.east) = (0, i64::from(u32::MAX));
        }
        // One unit more, because positions are rounded down to whole units.
        let own = world_box(layer, rect.grown(ROUNDING_UNITS + 1));
        for source in std::iter::once(own).chain(shifted_boxes(layer, own)) {
            columns.iter_mut().zip(source.sides()).for_each(|(column, side)| column.push(side));
        }
    }
    columns
}
