//! The kept rows that a request's filter leaves of the layers of a tile, so that the tile is drawn without a statement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sets::{AskedSet, Filter, FilterPart, ServedSets};
use super::snapshot::{LiveSnapshot, RequestFilter};
use crate::draw::{CachedRows, LivePoints, MatchingSet};
use crate::postgis::Error;
use crate::stop::Stop;
use crate::tile::Batch;

/// The time for which the database draws after a set could not be had, or is not worth it.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// The longest time that a statement for a set may take if the set holds for one snapshot only, which lives for a second
/// or a little more.
const MAX_BRIEF: Duration = Duration::from_millis(100);

/// A filter on a snapshot.
pub(crate) struct FilteredRows<'a> {
    pub(crate) sets: &'a ServedSets,
    pub(crate) snapshot: &'a LiveSnapshot,
    pub(crate) filter: &'a RequestFilter<'a>,
    pub(crate) stop: &'a Stop,
}

impl FilteredRows<'_> {
    /// The rows of the layers of a batch that the filter narrows, by the layers' numbers. `None` if the database has to
    /// draw the batch.
    pub(crate) async fn in_batch(&self, batch: &Batch) -> Result<Option<BTreeMap<usize, CachedRows>>, Error> {
        let Some(points) = self.snapshot.points_in(batch) else { return Ok(None) };
        let mut narrowed = BTreeMap::new();
        for (layer, points) in points {
            let part = |(parameter, values, _): (&str, &str, &str)| {
                (FilterPart { layer, parameter: parameter.to_owned() }, values.to_owned())
            };
            let filter = Filter(self.filter.of_layer(&self.snapshot.layers[layer]).map(part).collect());
            if filter.0.is_empty() {
                continue;
            }
            match self.of_layer(layer, &points, &filter).await? {
                Some(rows) => narrowed.insert(layer, rows),
                None => return Ok(None),
            };
        }
        Ok(Some(narrowed))
    }

    async fn of_layer(&self, layer: usize, points: &LivePoints, filter: &Filter) -> Result<Option<CachedRows>, Error> {
        let (kept, state) = (self.sets.of(filter), &self.snapshot.sets);
        let mut asked = tokio::select! {
            asked = kept.asked.lock() => asked,
            _ = self.stop.wait() => return Err(Error::Interrupted),
        };
        let before = match &*asked {
            AskedSet::RefusedUntil(until) if Instant::now() < *until => return Ok(None),
            // A snapshot that was taken before the present one.
            AskedSet::Set(_, on) if *on > state.snapshot => return Ok(None),
            AskedSet::Set(set, on) if state.holds(filter, *on) => Some(Arc::clone(set)),
            AskedSet::NotYet | AskedSet::Set(..) | AskedSet::RefusedUntil(_) => None,
        };
        if let Some(rows) = before.as_ref().and_then(|set| points.only(set)) {
            return Ok(Some(rows));
        }
        let own = &self.snapshot.layers[layer];
        if let Some(set) = before.as_ref().and_then(|before| points.matching_as_before(own, before)) {
            self.sets.note_size(filter, &kept, set.bytes());
            let set = Arc::new(set);
            *asked = AskedSet::Set(Arc::clone(&set), state.snapshot);
            return Ok(points.only(&set));
        }
        let begun = Instant::now();
        let set = self.asked(layer, points, before.as_deref()).await?;
        self.sets.note_asked(filter, &kept, set.as_ref().map_or(0, |set| set.bytes()));
        let rows = set.as_ref().and_then(|set| points.only(set));
        *asked = match set.filter(|_| begun.elapsed() <= MAX_BRIEF || !state.is_brief(filter)) {
            Some(set) => AskedSet::Set(set, state.snapshot),
            None => AskedSet::RefusedUntil(Instant::now() + PAUSE_AFTER_REFUSAL),
        };
        Ok(rows)
    }

    /// Asks the database. `None` if the statement fails, too: the database then says so of the tile.
    async fn asked(
        &self,
        layer: usize,
        points: &LivePoints,
        before: Option<&MatchingSet>,
    ) -> Result<Option<Arc<MatchingSet>>, Error> {
        let narrowed = self.filter.narrowed(&self.snapshot.layers[layer]);
        match self.snapshot.matching(points, &narrowed, &self.filter.values, before, self.stop).await {
            Ok(set) => Ok(set.map(Arc::new)),
            Err(error) if error.is_of_statement() && self.stop.asked().is_none() => {
                tracing::debug!("the database draws the tiles of a filter: {error}");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
