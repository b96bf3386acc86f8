//! The live rows of points that some user in this process has: tilesets of a server, and its writer. Another user who
//! has to read rows of the same definition goes on from them, and reads no table.
//!
//! ```text
//!  one user: read ─► step ─► step ─► joined ─► step        each newer version ─► pool
//!  another:                  taken ─► step ─► goes on from the joined rows ─► step
//! ```
//!
//! Users share the rows as read. What came and went since is each user's own, because each is at a snapshot of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::{LiveKind, LiveLayer, LiveRows, LiveStep, MAX_AGE};
use crate::cursor::StateInHistory;
use crate::draw::cached_rows::{KeptFeatures, OfferedFeatures};
use crate::postgis::layer::{Layer, LayerSection};

/// The newest rows of each definition in this process, all of one database. It takes no memory for rows as read that
/// nobody keeps any more.
#[derive(Debug, Default)]
pub(crate) struct RowsPool(Mutex<Vec<(PooledRows, OfferedFeatures)>>);

/// How many times others took the rows of a user.
#[derive(Debug, Clone, Default)]
pub(crate) struct GivenCount(Arc<AtomicU64>);

impl GivenCount {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is known of rows of a layer. Their facets are not among them: whether these hold depends on what the change log
/// has held for each user.
#[derive(Debug, Clone)]
pub(crate) struct PooledRows {
    definition: String,
    /// Names the further tables of whose changes the layer is told, which the definition does not.
    section: Arc<LayerSection>,
    /// The state of the database that the rows are of.
    pub(crate) shown: StateInHistory,
    age: RowsAge,
    /// True if the rows may look different later without a change of the table.
    ages: bool,
    given: GivenCount,
}

/// How new rows are, whatever came or went since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowsAge {
    read: Instant,
    /// Of the rows as read or joined: later ones have a greater number.
    base: u64,
}

impl RowsAge {
    /// True if somebody who has the rows of `other` should go on from these.
    fn replaces(self, other: RowsAge) -> bool {
        self.base > other.base && self.read >= other.read
    }
}

impl RowsPool {
    /// The rows of a layer, if somebody has them: any, or those from which a user with rows of this age should go on.
    pub(crate) fn rows_of(&self, layer: &Layer, own: Option<RowsAge>) -> Option<(PooledRows, KeptFeatures)> {
        let definition = layer.definition();
        let mut all = self.0.lock();
        all.retain(|(_, rows)| rows.are_kept());
        let (pooled, rows) = all.iter().find(|(pooled, _)| pooled.is_of(&definition, &layer.section))?;
        let is_young = !pooled.ages || pooled.age.read.elapsed() < MAX_AGE / 2;
        if !is_young || own.is_some_and(|own| !pooled.age.replaces(own)) {
            return None;
        }
        Some((pooled.clone(), rows.taken()?))
    }

    /// Offers rows to others, unless newer ones are there.
    fn put(&self, new: PooledRows, rows: OfferedFeatures) {
        let mut all = self.0.lock();
        all.retain(|(_, rows)| rows.are_kept());
        let Some(place) = all.iter().position(|(pooled, _)| pooled.is_of(&new.definition, &new.section)) else {
            return all.push((new, rows));
        };
        let (pooled, _) = &all[place];
        let is_later = new.shown.state.sees_all_of(&pooled.shown.state);
        if new.age > pooled.age || new.age == pooled.age && is_later {
            all[place] = (new, rows);
        }
    }

    /// Forgets rows that somebody could not use, whatever steps others have taken with them.
    pub(crate) fn forget(&self, age: RowsAge) {
        self.0.lock().retain(|(pooled, _)| pooled.age.base != age.base);
    }
}

impl PooledRows {
    fn is_of(&self, definition: &str, section: &Arc<LayerSection>) -> bool {
        self.definition == definition && self.section == *section
    }

    /// Notes that another user goes on from the rows.
    pub(crate) fn note_given(&self) {
        self.given.0.fetch_add(1, Ordering::Relaxed);
    }

    /// `rows`, of which this is known, as those that a user keeps, who is to bring them to a snapshot.
    /// `are_as_written` is true if they change only when they are written, as far as that snapshot says.
    pub(crate) fn kept(&self, rows: KeptFeatures, step: LiveStep<'_>, layer: &Layer, are_as_written: bool) -> LiveRows {
        let ages = self.ages || !are_as_written;
        let hold_all = !ages && (layer.rank.is_none() || layer.cached_rank().is_some());
        LiveRows::of(LiveLayer {
            cursor: self.shown.state.to_string(),
            // That of no snapshot, so that the user's own reads what has changed.
            snapshot: String::new(),
            read: self.age.read,
            ages,
            hold_all,
            ..LiveLayer::new(self.definition.clone(), step, LiveKind::Points(rows))
        })
    }
}

impl LiveRows {
    fn of(layer: LiveLayer) -> LiveRows {
        LiveRows(tokio::sync::Mutex::new(vec![layer]))
    }

    /// How new the kept rows of a layer of points are; `None` if none are kept.
    pub(crate) async fn age_of(&self, layer: &Layer) -> Option<RowsAge> {
        let definition = layer.definition();
        let layers = self.0.lock().await;
        layers.iter().find(|kept| kept.definition == definition).and_then(LiveLayer::rows_age)
    }

    /// The same for all layers of points.
    pub(crate) async fn ages(&self) -> Vec<RowsAge> {
        self.0.lock().await.iter().filter_map(LiveLayer::rows_age).collect()
    }

    /// The memory of all kept rows but those of a layer, in bytes.
    pub(crate) async fn bytes_besides(&self, layer: &Layer) -> usize {
        let definition = layer.definition();
        let layers = self.0.lock().await;
        layers.iter().filter(|kept| kept.definition != definition).map(LiveLayer::bytes).sum()
    }

    /// The memory of rows as read that others in this process keep, too, in bytes.
    pub(crate) async fn shared_bytes(&self) -> usize {
        let layers = self.0.lock().await;
        layers.iter().map(|kept| if let LiveKind::Points(rows) = &kept.rows { rows.shared_bytes() } else { 0 }).sum()
    }

    /// Offers the kept rows of a layer of points to others, if they are those of the state `shown`. `given` counts how
    /// many times others take them.
    pub(crate) async fn offer(&self, pool: &RowsPool, layer: &Layer, shown: &StateInHistory, given: &GivenCount) {
        let (definition, cursor) = (layer.definition(), shown.state.to_string());
        let layers = self.0.lock().await;
        let kept = layers.iter().find(|kept| kept.definition == definition && kept.cursor == cursor);
        if let Some(kept) = kept
            && let LiveKind::Points(rows) = &kept.rows
            && let Some(age) = kept.rows_age()
        {
            let section = Arc::clone(&layer.section);
            let (shown, ages, given) = (shown.clone(), kept.ages, given.clone());
            pool.put(PooledRows { definition, section, shown, age, ages, given }, rows.offered());
        }
    }
}

impl LiveLayer {
    fn rows_age(&self) -> Option<RowsAge> {
        let LiveKind::Points(rows) = &self.rows else { return None };
        Some(RowsAge { read: self.read, base: rows.base() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cursor::NewestLogged;
    use crate::mvt::{FeatureKey, Features};
    use crate::postgis::layer::example_layer;

    fn features(ids: &[u8]) -> KeptFeatures {
        let bytes = ids.iter().flat_map(|id| [1, *id, 0]).collect();
        let ends = (1..).take(ids.len()).map(|number| 3 * number).collect();
        let encoded = Features::of_encoded("rows", vec!["name".to_owned()], 4096, bytes, ends).unwrap();
        KeptFeatures::of_rows(ids.iter().map(|id| [f64::from(*id), 0.0]).collect(), encoded, FeatureKey::Id).unwrap()
    }

    #[test]
    fn rows_are_taken_for_as_long_as_somebody_keeps_them_and_newer_ones_take_their_place() {
        let (pool, layer, begun) = (RowsPool::default(), example_layer(), Instant::now());
        let put = |rows: &KeptFeatures, seconds: u64, state: &str| {
            let age = RowsAge { read: begun + Duration::from_secs(seconds), base: rows.base() };
            let shown = StateInHistory { state: state.parse().unwrap(), newest: NewestLogged::Nothing };
            let (definition, section) = (layer.definition(), Arc::clone(&layer.section));
            let given = GivenCount::default();
            pool.put(PooledRows { definition, section, shown, age, ages: false, given }, rows.offered());
            age
        };
        let state = || pool.rows_of(&layer, None).map(|(pooled, _)| pooled.shown.state.to_string());
        let (old, joined, new) = (features(&[1, 2]), features(&[1, 2]), features(&[1, 2]));
        let of_old = put(&old, 0, "20:20:");
        put(&old, 0, "10:10:");
        assert_eq!(state().as_deref(), Some("20:20:"), "a user that is behind");
        assert!(pool.rows_of(&layer, Some(of_old)).is_none(), "its own rows");
        let of_joined = put(&joined, 0, "15:15:");
        assert_eq!(state().as_deref(), Some("15:15:"));
        assert!(pool.rows_of(&layer, Some(of_old)).is_some() && pool.rows_of(&layer, Some(of_joined)).is_none());
        put(&new, 5, "30:30:");
        put(&joined, 0, "40:40:");
        assert_eq!(state().as_deref(), Some("30:30:"), "rows that were read later");
        let other = Layer { filter: Some("id > 1".to_owned()), ..layer.clone() };
        let section = LayerSection { schema: Some("other".to_owned()), ..(*layer.section).clone() };
        let told_of_others = Layer { section: Arc::new(section), ..layer.clone() };
        assert!([other, told_of_others].iter().all(|other| pool.rows_of(other, None).is_none()));
        drop(new);
        assert!(state().is_none(), "nobody keeps them");
        put(&joined, 0, "41:41:");
        assert_eq!(state().as_deref(), Some("41:41:"));
        pool.forget(of_old);
        assert!(state().is_some());
        pool.forget(of_joined);
        assert!(state().is_none());
    }

    #[test]
    fn sets_of_one_user_are_not_those_of_another_whose_steps_are_others() {
        let first = features(&[1, 2]);
        let second = first.offered().taken().unwrap();
        assert!(first.shared_bytes() > 0 && first.base() == second.base());
        let set = Arc::new(first.rows().all_kept().unwrap());
        assert!(first.rows().only(&set).is_some() && first.rows().keys_since(&set, &FeatureKey::Id).is_some());
        assert!(second.rows().only(&set).is_none() && second.rows().keys_since(&set, &FeatureKey::Id).is_none());
        assert_eq!(second.in_order().count(), 2);
        drop(first);
        assert_eq!(second.shared_bytes(), 0);
    }
}
