//! The kept rows that a request's filter leaves of the layers of a tile, so that the tile is drawn without a statement.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::OwnedMutexGuard;

use super::request_filter::RequestFilter;
use super::rows::ServedRows;
use super::sets::{AskedSet, Filter, FilterPart, KeptSet};
use super::shared_work::SharedWork;
use super::snapshot::LiveSnapshot;
use crate::config::AskedCondition;
use crate::draw::{CachedRows, LivePoints, MatchingSet};
use crate::error::with_causes;
use crate::postgis::{Error, FacetChoice, Layer};
use crate::stop::Stop;
use crate::threads::blocking;
use crate::tile::Batch;

/// The time for which the database draws after a set could not be had, or is not worth it.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// The longest time that a statement for a set may take if the set holds for one snapshot only, which lives for a
/// second or a little more.
const MAX_BRIEF: Duration = Duration::from_millis(100);

/// How long a tile waits for the set for which it was the first to ask, before the database draws it. It holds a worker
/// meanwhile; other tiles of the filter do not wait.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// How long a tile waits for the set of its filter before it takes a worker. Statements for several filters may have to
/// take turns.
pub(crate) const MAX_WAIT_WITHOUT_WORKER: Duration = Duration::from_secs(2);

/// How long a tile waits for the set that another one makes of facets.
const MAX_WAIT_FOR_FACETS: Duration = Duration::from_millis(50);

/// The longest time that a statement for a set may take: reading all rows must not take more than the tiles gain.
const MAX_ASKING: Duration = Duration::from_secs(10);

/// How long a tile waits for the set of its filter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum SetWait {
    /// It holds a worker: only the first tile of the filter waits, for [`MAX_WAIT`].
    WithWorker,
    /// It holds none, and waits until then.
    Until(Instant),
}

impl SetWait {
    /// What becomes there in time.
    async fn awaited<T>(self, later: impl Future<Output = T>) -> Option<T> {
        match self {
            SetWait::WithWorker => later.now_or_never(),
            SetWait::Until(end) => tokio::time::timeout_at(end.into(), later).await.ok(),
        }
    }
}

pub(crate) struct FilteredRows<'a> {
    pub(crate) rows: &'a Arc<ServedRows>,
    pub(crate) snapshot: &'a Arc<LiveSnapshot>,
    pub(crate) filter: &'a RequestFilter<'a>,
    pub(crate) wait: SetWait,
    pub(crate) stop: &'a Stop,
}

/// The set of a filter, or why the database has to draw.
pub(crate) enum FoundSet {
    Set(Arc<MatchingSet>),
    /// The set is not there yet.
    Busy,
    /// There is none: most rows match, the statement fails, or there is no room.
    Refused,
}

fn filter_of<'a>(layer: usize, asked: impl IntoIterator<Item = &'a AskedCondition>) -> Filter {
    let part = |asked: &AskedCondition| (FilterPart { layer, condition: asked.key.clone() }, asked.values.clone());
    Filter(asked.into_iter().map(part).collect())
}

/// The set of a filter, which only this may change.
struct LockedSet {
    filter: Filter,
    kept: Arc<KeptSet>,
    held: OwnedMutexGuard<AskedSet>,
}

impl LockedSet {
    /// Keeps the set that a statement has found, if it found one and there is room. A set of a single snapshot is not
    /// kept if the statement was slow.
    fn takes(
        mut self,
        found: Option<Arc<MatchingSet>>,
        rows: &ServedRows,
        snapshot: &LiveSnapshot,
        is_slow: bool,
    ) -> Option<Arc<MatchingSet>> {
        let set = found.filter(|set| rows.sets.have_room_for(set.bytes()));
        rows.sets.note_size(&self.filter, &self.kept, set.as_ref().map_or(0, |set| set.bytes()));
        *self.held = match set.clone().filter(|_| !is_slow || !snapshot.sets.is_brief(&self.filter)) {
            Some(set) => AskedSet::Set(set, snapshot.sets.snapshot),
            None => AskedSet::RefusedUntil(Instant::now() + PAUSE_AFTER_REFUSAL),
        };
        set
    }
}

impl FilteredRows<'_> {
    /// The number of the layer under which the set of some conditions is kept: that of the layer which keeps the rows,
    /// if the request sets the same conditions on it.
    fn owner(&self, layer: usize, asked: &[AskedCondition]) -> usize {
        let owner = self.snapshot.live.owner(layer);
        if owner == layer {
            return layer;
        }
        let of_owner = self.filter.of_layer(&self.snapshot.layers[owner]);
        let is_set = |asked: &AskedCondition| {
            let same =
                |one: &AskedCondition| (&one.key, &one.sql, &one.facet) == (&asked.key, &asked.sql, &asked.facet);
            of_owner.iter().any(same)
        };
        if asked.iter().all(is_set) { owner } else { layer }
    }

    /// The sets of other layers that the statement about `narrowed` finds, too, and that are wanted and not there.
    /// `rows` are those of this one.
    fn alike(
        &self,
        layer: usize,
        rows: &LivePoints,
        asked: &[AskedCondition],
        narrowed: &Layer,
    ) -> Vec<(LockedSet, LivePoints)> {
        let others = self.snapshot.layers.iter().enumerate().filter(|(other, _)| *other != layer);
        let alike = |(number, other): (usize, &Arc<Layer>)| {
            let points = self.snapshot.live.points(number).filter(|points| points.rows.kept_count() > 0)?;
            let own = self.filter.of_layer(other).into_iter();
            let own: Vec<AskedCondition> = own.filter(|own| asked.iter().any(|asked| asked.key == own.key)).collect();
            if !rows.ask_alike(narrowed, points, &self.filter.narrowed_by(other, &own)) {
                return None;
            }
            let filter = filter_of(self.owner(number, &own), &own);
            let kept = self.rows.sets.of(&filter)?;
            let held = Arc::clone(&kept.asked).try_lock_owned().ok()?;
            let is_wanted = match &*held {
                AskedSet::NotYet => true,
                AskedSet::Set(_, on) => *on <= self.snapshot.sets.snapshot && !self.snapshot.sets.holds(&filter, *on),
                AskedSet::RefusedUntil(until) => *until <= Instant::now(),
            };
            is_wanted.then(|| (LockedSet { filter, kept, held }, points.clone()))
        };
        others.filter_map(alike).collect()
    }

    /// The rows of the layers of a batch that the filter narrows, by the layers' numbers. `None` if the database has to
    /// draw the batch.
    pub(crate) async fn in_batch(&self, batch: &Batch) -> Result<Option<BTreeMap<usize, CachedRows>>, Error> {
        let Some(points) = self.snapshot.points_in(batch) else { return Ok(None) };
        let mut narrowed = BTreeMap::new();
        for (layer, points) in points {
            let asked = self.filter.of_layer(&self.snapshot.layers[layer]);
            if asked.is_empty() {
                continue;
            }
            match self.of_layer(layer, &points, &asked).await? {
                Some(rows) => narrowed.insert(layer, rows),
                None => return Ok(None),
            };
        }
        Ok(Some(narrowed))
    }

    /// The kept rows of a layer that the filter leaves, by the layer's number; `None` if they are not known without the
    /// database.
    pub(crate) async fn kept(&self, layer: usize) -> Result<Option<Arc<CachedRows>>, Error> {
        let Some(points) = self.snapshot.live.points(layer) else { return Ok(None) };
        let asked = self.filter.of_layer(&self.snapshot.layers[layer]);
        if asked.is_empty() {
            return Ok(Some(Arc::clone(&points.rows)));
        }
        Ok(self.of_layer(layer, points, &asked).await?.map(Arc::new))
    }

    async fn of_layer(
        &self,
        layer: usize,
        points: &LivePoints,
        asked: &[AskedCondition],
    ) -> Result<Option<CachedRows>, Error> {
        match self.set_of(layer, points, asked).await? {
            FoundSet::Set(set) => Ok(points.only(&set)),
            FoundSet::Busy | FoundSet::Refused => Ok(None),
        }
    }

    /// The set of the rows of a layer that fulfil some conditions.
    pub(crate) async fn set_of(
        &self,
        layer: usize,
        points: &LivePoints,
        asked: &[AskedCondition],
    ) -> Result<FoundSet, Error> {
        let layer = self.owner(layer, asked);
        match Box::pin(self.by_facets(layer, points, asked)).await? {
            FoundSet::Refused => Box::pin(self.by_statement(layer, points, asked)).await,
            found => Ok(found),
        }
    }

    /// The rows that have the wanted values of facets, and fulfil the other conditions, about which a statement asks:
    /// its set serves all choices of facets. There is none if the filter wants no facets, or those of the rows are not
    /// known.
    async fn by_facets(&self, layer: usize, points: &LivePoints, asked: &[AskedCondition]) -> Result<FoundSet, Error> {
        let (of_facets, others): (Vec<_>, Vec<_>) = asked.iter().cloned().partition(|asked| asked.facet.is_some());
        let choices: Vec<FacetChoice> = of_facets.iter().filter_map(|asked| asked.facet.clone()).collect();
        let (sets, state) = (&self.rows.sets, &self.snapshot.sets);
        if choices.is_empty() || !points.know_facets(&choices) || !state.has_facets(&filter_of(layer, &of_facets)) {
            return Ok(FoundSet::Refused);
        }
        let filter = filter_of(layer, asked);
        let kept = sets.of(&filter);
        let of_others = filter_of(layer, &others);
        let holds = |on: u64| others.is_empty() || state.holds(&of_others, on);
        let known = |asked: &AskedSet| match asked {
            AskedSet::Set(set, on) if holds(*on) && points.only(set).is_some() => Some(Arc::clone(set)),
            _ => None,
        };
        if let Some(set) = kept.as_ref().and_then(|kept| known(&*kept.asked.try_lock().ok()?)) {
            return Ok(FoundSet::Set(set));
        }
        let among = if others.is_empty() {
            None
        } else {
            match self.by_statement(layer, points, &others).await? {
                FoundSet::Set(set) => Some(set),
                found => return Ok(found),
            }
        };
        // The tiles of a view come together, and one of them makes the set for all. But a statement may be asking for
        // the same set, from when the facets were not known.
        let end = match self.wait {
            SetWait::WithWorker => Instant::now() + MAX_WAIT_FOR_FACETS,
            SetWait::Until(end) => end,
        };
        let mut held = match &kept {
            Some(kept) => tokio::time::timeout_at(end.into(), kept.asked.lock()).await.ok(),
            None => None,
        };
        if let Some(set) = held.as_deref().and_then(known) {
            return Ok(FoundSet::Set(set));
        }
        let of_all = points.clone();
        let set = blocking(move || of_all.with_facets(&choices, among.as_deref())).await;
        let Some(set) = set.map(Arc::new) else { return Ok(FoundSet::Refused) };
        if let (Some(held), Some(kept)) = (&mut held, &kept)
            && !matches!(&**held, AskedSet::Set(_, on) if *on > state.snapshot)
        {
            **held = AskedSet::Set(Arc::clone(&set), state.snapshot);
            sets.note_size(&filter, kept, set.bytes());
        }
        sets.note_by_facets();
        Ok(FoundSet::Set(set))
    }

    /// The rows that fulfil the conditions, about which a statement asks, or has asked on an earlier snapshot.
    async fn by_statement(
        &self,
        layer: usize,
        points: &LivePoints,
        asked: &[AskedCondition],
    ) -> Result<FoundSet, Error> {
        let (sets, state) = (&self.rows.sets, &self.snapshot.sets);
        let filter = filter_of(layer, asked);
        let Some(kept) = sets.of(&filter) else { return Ok(FoundSet::Refused) };
        // While somebody asks, the database draws for those who cannot wait.
        let locked = self.wait.awaited(Arc::clone(&kept.asked).lock_owned()).await;
        let Some(mut held) = locked else { return Ok(FoundSet::Busy) };
        let before = match &*held {
            AskedSet::RefusedUntil(until) if Instant::now() < *until => return Ok(FoundSet::Refused),
            // A snapshot that was taken before the present one.
            AskedSet::Set(_, on) if *on > state.snapshot => return Ok(FoundSet::Busy),
            AskedSet::Set(set, on) if state.holds(&filter, *on) => Some(Arc::clone(set)),
            AskedSet::NotYet | AskedSet::Set(..) | AskedSet::RefusedUntil(_) => None,
        };
        if let Some(set) = before.clone().filter(|set| points.only(set).is_some()) {
            return Ok(FoundSet::Set(set));
        }
        if let Some(set) = before.as_ref().and_then(|before| points.matching_as_before(before)) {
            sets.note_size(&filter, &kept, set.bytes());
            let set = Arc::new(set);
            *held = AskedSet::Set(Arc::clone(&set), state.snapshot);
            return Ok(FoundSet::Set(set));
        }
        // Those who wait in vain let the database draw, and should not wait for long.
        let turn = match self.wait {
            SetWait::WithWorker => SetWait::WithWorker,
            SetWait::Until(end) => SetWait::Until(end.min(Instant::now() + MAX_WAIT)),
        };
        let permit = turn.awaited(self.snapshot.right_to_ask()).await.flatten();
        let Some(permit) = permit else { return Ok(FoundSet::Busy) };
        let (rows, snapshot) = (Arc::clone(self.rows), Arc::clone(self.snapshot));
        let narrowed = self.filter.narrowed_by(&self.snapshot.layers[layer], asked);
        let (of_all, values) = (points.clone(), self.filter.values.clone());
        let locked = LockedSet { filter, kept, held };
        // A later zoom of the same rows may be drawn by another layer.
        let (others, alike): (Vec<_>, Vec<_>) = if before.is_none() {
            self.alike(layer, points, asked, &narrowed).into_iter().unzip()
        } else {
            Default::default()
        };
        // A tile that is given up, or takes too long, does not end the statement: others want its set.
        let asking = SharedWork::start(async move {
            let (begun, stop) = (Instant::now(), Stop::new());
            let matching = snapshot.matching(&of_all, &narrowed, &values, before.as_deref(), &alike, &stop);
            let (found, _is_late) = stop.limiting(MAX_ASKING, Box::pin(matching)).await;
            drop(permit);
            let found = found.unwrap_or_else(|error| {
                tracing::debug!("the database draws the tiles of a filter: {}", with_causes(&error));
                None
            });
            rows.sets.note_statement();
            let is_slow = begun.elapsed() > MAX_BRIEF;
            let mut found = found.into_iter().flatten().map(Arc::new);
            let own = locked.takes(found.next(), &rows, &snapshot, is_slow);
            // Without a set for the layer that asked, nothing is said of the others.
            for (other, set) in others.into_iter().zip(found) {
                other.takes(Some(set), &rows, &snapshot, is_slow);
            }
            own
        });
        let end = match self.wait {
            SetWait::WithWorker => Instant::now() + MAX_WAIT,
            SetWait::Until(end) => end,
        };
        tokio::select! {
            asked = tokio::time::timeout_at(end.into(), asking.done()) => Ok(match asked {
                Ok(set) => set.flatten().map_or(FoundSet::Refused, FoundSet::Set),
                Err(_late) => FoundSet::Busy,
            }),
            _ = self.stop.wait() => Err(Error::Interrupted),
        }
    }
}
