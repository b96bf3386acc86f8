//! How many rows of each layer a request chooses, and where they lie: counted in the rows that are kept, or by the
//! database.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::filtered::{FilteredRows, FoundSet};
use super::request_filter::RequestFilter;
use super::snapshot::LiveSnapshot;
use crate::config::AskedCondition;
use crate::draw::CachedRows;
use crate::postgis::{Error, Facet, FrequentValue, Layer, RowCountAndBox, count_rows_and_box, frequent_values};
use crate::serve::{Counted, LayerCounts, MAX_VALUES, ParameterRows};
use crate::stop::Stop;
use crate::threads::blocking;
use crate::tile::{WORLD_UNITS, WorldRect};

/// The layers whose rows are counted, each by its number: of each name the one of the deepest zoom. A function's rows
/// only say where it draws.
fn counted_layers(layers: &[Arc<Layer>]) -> BTreeMap<&str, usize> {
    let countable = layers.iter().enumerate().filter(|(_, layer)| layer.function().is_none());
    let mut all: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, layer) in countable {
        let known = all.entry(layer.name()).or_insert(number);
        if layer.zooms().max() > layers[*known].zooms().max() {
            *known = number;
        }
    }
    all
}

impl FilteredRows<'_> {
    pub(crate) async fn counted(&self, wanted: Counted) -> Result<Vec<LayerCounts>, Error> {
        let layers = &self.snapshot.layers;
        let mut numbered: Vec<(usize, LayerCounts)> = Vec::new();
        for (name, number) in counted_layers(layers) {
            let kept = self.kept(number).await?;
            let found = match kept {
                Some(rows) => blocking(move || counted(&rows)).await,
                None => self.snapshot.count_in_database(&layers[number], self.filter, self.stop).await?,
            };
            let values = match wanted {
                Counted::Rows => Vec::new(),
                Counted::RowsAndValues => self.values_of(number, false).await?,
                Counted::RowsAndOwnValues => self.values_of(number, true).await?,
            };
            let (layer, bounds) = (name.to_owned(), found.within.map(Into::into));
            numbered.push((number, LayerCounts { layer, count: found.rows, bounds, values }));
        }
        numbered.sort_by_key(|(number, _)| *number);
        Ok(numbered.into_iter().map(|(_, rows)| rows).collect())
    }
}

impl FilteredRows<'_> {
    /// For each parameter with a facet of a layer, its values among the rows that the request chooses: without the
    /// parameter's own choice, or with it if `is_own` is true.
    async fn values_of(&self, number: usize, is_own: bool) -> Result<Vec<ParameterRows>, Error> {
        let layer = &self.snapshot.layers[number];
        let mut all = Vec::new();
        for (settings, facet) in self.filter.facets_of(layer) {
            if self.stop.asked().is_some() {
                return Err(Error::Interrupted);
            }
            let parameter = &settings.parameter;
            let mut asked = self.filter.of_layer(layer);
            asked.retain(|asked| is_own || !asked.key.is_facet_of(&parameter.name));
            let is_known = self.snapshot.sets.has_facet_of(number, &parameter.name);
            let kept = if is_known { self.kept_values(number, facet, &asked).await? } else { None };
            let mut values = match kept {
                Some(values) => values,
                None => self.snapshot.values_in_database(layer, facet, &asked, self).await?,
            };
            values.retain(|frequent| parameter.offers(&frequent.value));
            let values = values.into_iter().map(|FrequentValue { value, rows }| (value, rows)).collect();
            all.push(ParameterRows { parameter: parameter.name.clone(), values });
        }
        Ok(all)
    }

    /// The values of a facet among the kept rows that fulfil some conditions; `None` if they are not known without the
    /// database.
    async fn kept_values(
        &self,
        number: usize,
        facet: &Facet,
        asked: &[AskedCondition],
    ) -> Result<Option<Vec<FrequentValue>>, Error> {
        let Some(points) = self.snapshot.live.points(number).filter(|points| points.facets.is_some()) else {
            return Ok(None);
        };
        let among = if asked.is_empty() {
            None
        } else {
            let FoundSet::Set(set) = self.set_of(number, points, asked).await? else { return Ok(None) };
            Some(set)
        };
        let (points, column) = (points.clone(), facet.column.clone());
        Ok(blocking(move || points.frequent_values(&column, among.as_deref(), MAX_VALUES)).await)
    }
}

fn counted(rows: &CachedRows) -> RowCountAndBox {
    let (mut count, mut found): (u64, Option<WorldRect>) = (0, None);
    rows.each_position_within(WorldRect { west: 0, north: 0, east: WORLD_UNITS, south: WORLD_UNITS }, |at| {
        #[expect(clippy::cast_possible_truncation, reason = "positions lie in the world, or a unit beyond it")]
        let [x, y] = at.map(|unit| (unit as i64).clamp(0, WORLD_UNITS - 1));
        count += 1;
        let before = found.unwrap_or(WorldRect { west: x, north: y, east: x, south: y });
        found = Some(WorldRect {
            west: before.west.min(x),
            north: before.north.min(y),
            east: before.east.max(x),
            south: before.south.max(y),
        });
    });
    RowCountAndBox { rows: count, within: found }
}

impl LiveSnapshot {
    /// Counts the rows that the database has of a layer.
    async fn count_in_database(
        &self,
        layer: &Layer,
        filter: &RequestFilter<'_>,
        stop: &Stop,
    ) -> Result<RowCountAndBox, Error> {
        let narrowed = filter.narrowed(layer);
        let counted = self
            .in_session(stop, async |worker| {
                worker.set_values(&filter.values).await?;
                count_rows_and_box(worker.session(), &narrowed).await
            })
            .await?;
        self.snapshot.check_partitions(&self.reads).await?;
        Ok(counted)
    }

    /// The values of a facet among the rows that fulfil some conditions of a request.
    async fn values_in_database(
        &self,
        layer: &Layer,
        facet: &Facet,
        asked: &[AskedCondition],
        filtered: &FilteredRows<'_>,
    ) -> Result<Vec<FrequentValue>, Error> {
        let narrowed = filtered.filter.narrowed_by(layer, asked);
        let counted = self
            .in_session(filtered.stop, async |worker| {
                worker.set_values(&filtered.filter.values).await?;
                frequent_values(worker.session(), &narrowed, facet, MAX_VALUES).await
            })
            .await?;
        self.snapshot.check_partitions(&self.reads).await?;
        Ok(counted)
    }
}
