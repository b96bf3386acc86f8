//! The kept rows that a request's filter leaves of the layers of a tile, so that the tile is drawn without a statement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::rows::ServedRows;
use super::sets::{AskedSet, Filter, FilterPart};
use super::snapshot::{LiveSnapshot, RequestFilter, SharedWork};
use crate::config::AskedCondition;
use crate::draw::{CachedRows, LivePoints};
use crate::error::with_causes;
use crate::postgis::Error;
use crate::stop::{Signal, Stop};
use crate::tile::Batch;

/// The time for which the database draws after a set could not be had, or is not worth it.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// The longest time that a statement for a set may take if the set holds for one snapshot only, which lives for a
/// second or a little more.
const MAX_BRIEF: Duration = Duration::from_millis(100);

/// How long a tile waits for the set for which it was the first to ask, before the database draws it. It holds a worker
/// meanwhile; other tiles of the filter do not wait.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// How long a tile waits for the set that another one makes of facets.
const MAX_WAIT_FOR_FACETS: Duration = Duration::from_millis(50);

/// The longest time that a statement for a set may take: reading all rows must not take more than the tiles gain.
const MAX_ASKING: Duration = Duration::from_secs(10);

/// A filter on a snapshot.
pub(crate) struct FilteredRows<'a> {
    pub(crate) rows: &'a Arc<ServedRows>,
    pub(crate) snapshot: &'a Arc<LiveSnapshot>,
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
            let (filter, asked) = self.of_number(layer);
            if filter.0.is_empty() {
                continue;
            }
            match self.of_layer(layer, &points, &filter, &asked).await? {
                Some(rows) => narrowed.insert(layer, rows),
                None => return Ok(None),
            };
        }
        Ok(Some(narrowed))
    }

    /// The kept rows of a layer that the filter leaves, by the layer's number; `None` if they are not known without the
    /// database.
    pub(crate) async fn kept(&self, layer: usize) -> Result<Option<Arc<CachedRows>>, Error> {
        let Some(points) = self.snapshot.kept(layer) else { return Ok(None) };
        let (filter, asked) = self.of_number(layer);
        if filter.0.is_empty() {
            return Ok(Some(Arc::clone(&points.rows)));
        }
        Ok(self.of_layer(layer, points, &filter, &asked).await?.map(Arc::new))
    }

    fn of_number(&self, layer: usize) -> (Filter, Vec<AskedCondition>) {
        let asked = self.filter.of_layer(&self.snapshot.layers[layer]);
        let part = |asked: &AskedCondition| (FilterPart { layer, condition: asked.key.clone() }, asked.values.clone());
        (Filter(asked.iter().map(part).collect()), asked)
    }

    /// The rows that have the wanted values of facets. `None` if the filter wants something else, or the facets of the
    /// rows are not known.
    async fn by_facets(&self, points: &LivePoints, filter: &Filter, asked: &[AskedCondition]) -> Option<CachedRows> {
        let (sets, state) = (&self.rows.sets, &self.snapshot.sets);
        let choices = asked.iter().map(|asked| asked.facet.clone()).collect::<Option<Vec<_>>>()?;
        if !state.has_facets(filter) {
            return None;
        }
        let kept = sets.of(filter);
        // The tiles of a view come together, and one of them makes the set for all. But a statement may be asking for
        // the same set, from when the facets were not known.
        let mut asked = match &kept {
            Some(kept) => tokio::time::timeout(MAX_WAIT_FOR_FACETS, kept.asked.lock()).await.ok(),
            None => None,
        };
        if let Some(AskedSet::Set(set, _)) = asked.as_deref()
            && let Some(rows) = points.only(set)
        {
            return Some(rows);
        }
        let of_all = points.clone();
        let choosing = tokio::task::spawn_blocking(move || of_all.with_facets(&choices));
        let set = choosing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let (bytes, set) = (set.bytes(), Arc::new(set));
        let rows = points.only(&set);
        if let (Some(asked), Some(kept)) = (&mut asked, &kept)
            && !matches!(&**asked, AskedSet::Set(_, on) if *on > state.snapshot)
        {
            **asked = AskedSet::Set(set, state.snapshot);
            sets.note_size(filter, kept, bytes);
        }
        sets.note_by_facets();
        rows
    }

    async fn of_layer(
        &self,
        layer: usize,
        points: &LivePoints,
        filter: &Filter,
        asked: &[AskedCondition],
    ) -> Result<Option<CachedRows>, Error> {
        if let Some(rows) = Box::pin(self.by_facets(points, filter, asked)).await {
            return Ok(Some(rows));
        }
        let (sets, state) = (&self.rows.sets, &self.snapshot.sets);
        let Some(kept) = sets.of(filter) else { return Ok(None) };
        // While somebody asks, the database draws.
        let Ok(mut asked) = Arc::clone(&kept.asked).try_lock_owned() else { return Ok(None) };
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
        if let Some(set) = before.as_ref().and_then(|before| points.matching_as_before(before)) {
            sets.note_size(filter, &kept, set.bytes());
            let set = Arc::new(set);
            *asked = AskedSet::Set(Arc::clone(&set), state.snapshot);
            return Ok(points.only(&set));
        }
        let Some(permit) = self.snapshot.may_ask() else { return Ok(None) };
        let (rows, snapshot, filter) = (Arc::clone(self.rows), Arc::clone(self.snapshot), filter.clone());
        let (of_all, narrowed, values) = (points.clone(), self.filter.narrowed(own), self.filter.values.clone());
        // A tile that is given up, or takes too long, does not end the statement: others want its set.
        let asking = SharedWork::start(async move {
            let (begun, stop) = (Instant::now(), Stop::new());
            let statement = snapshot.matching(&of_all, &narrowed, &values, before.as_deref(), &stop);
            tokio::pin!(statement);
            let set = tokio::select! {
                set = &mut statement => set,
                () = tokio::time::sleep(MAX_ASKING) => {
                    stop.ask(Signal::Terminate);
                    statement.await
                }
            };
            drop(permit);
            let set = set.unwrap_or_else(|error| {
                tracing::debug!("the database draws the tiles of a filter: {}", with_causes(&error));
                None
            });
            let set = set.map(Arc::new).filter(|set| rows.sets.have_room_for(set.bytes()));
            rows.sets.note_asked(&filter, &kept, set.as_ref().map_or(0, |set| set.bytes()));
            let is_kept = begun.elapsed() <= MAX_BRIEF || !snapshot.sets.is_brief(&filter);
            *asked = match set.clone().filter(|_| is_kept) {
                Some(set) => AskedSet::Set(set, snapshot.sets.snapshot),
                None => AskedSet::RefusedUntil(Instant::now() + PAUSE_AFTER_REFUSAL),
            };
            set
        });
        let set = tokio::select! {
            set = tokio::time::timeout(MAX_WAIT, asking.done()) => set.ok().flatten().flatten(),
            _ = self.stop.wait() => return Err(Error::Interrupted),
        };
        Ok(set.and_then(|set| points.only(&set)))
    }
}
