//! The matching sets of a server: the rows that fulfil a filter, kept for all its tiles and zooms.
//!
//! A filter is what a request wants of one layer: some parameters with their values. Its set is of one database state.
//! It also serves a later state if the change log holds every change of the columns that the conditions read. Then only
//! rows that came since are asked about. `track install` decides which conditions these are, and the log proves it at
//! each step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::config::{ConditionKey, FilterSettings};
use crate::cursor::Cursor;
use crate::draw::{MAX_AGE, MatchingSet};
use crate::postgis::Layer;
use crate::serve::LiveRowsReport;

/// The most filters whose sets are kept, or were refused.
const MAX_SETS: usize = 1_000;

/// Sets take at most this part of the memory for rows.
const SHARE_OF_MEMORY: usize = 4;

/// A condition on the rows of a layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FilterPart {
    /// The layer's number.
    pub(crate) layer: usize,
    pub(crate) condition: ConditionKey,
}

/// What a request wants of a layer: the conditions that it sets, each with its values in their canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Filter(pub(crate) Vec<(FilterPart, String)>);

impl Filter {
    fn bytes(&self) -> usize {
        let part = |(part, values): &(FilterPart, String)| {
            size_of::<(FilterPart, String)>() + part.condition.bytes() + values.len()
        };
        size_of::<KeptSet>() + self.0.iter().map(part).sum::<usize>()
    }
}

/// The set of a filter. Whoever locks it asks the database for all that wait.
#[derive(Default)]
pub(crate) struct KeptSet {
    pub(crate) asked: Arc<tokio::sync::Mutex<AskedSet>>,
    /// The number of the last use.
    used: AtomicU64,
    bytes: AtomicUsize,
}

#[derive(Default)]
pub(crate) enum AskedSet {
    #[default]
    NotYet,
    /// The set, and the number of the snapshot on which it was asked for.
    Set(Arc<MatchingSet>, u64),
    /// The database draws until then.
    RefusedUntil(Instant),
}

/// Conditions, each with the database state since which the log is known to hold every change of the columns that it
/// reads: that of the last snapshot, or an earlier one. `None` if it does not hold those since the last snapshot.
pub(crate) type LoggedParts = Vec<(FilterPart, Option<Cursor>)>;

/// Which sets hold for a snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct SetsState {
    /// The number of the snapshot, counted from 1 among those to which rows were brought.
    pub(crate) snapshot: u64,
    /// The number of the first snapshot since which the log holds every change of a condition's columns. Without an
    /// entry the log was not asked yet.
    logged_since: Arc<BTreeMap<FilterPart, u64>>,
    /// The number of the snapshot after which the facets of the rows were read.
    facets_since: u64,
    /// The same as `logged_since`, as database states.
    logged_from: Arc<BTreeMap<FilterPart, Cursor>>,
}

impl SetsState {
    /// The state of the next snapshot. The log has all changes since this one that the conditions of `logged` see.
    pub(crate) fn next(&self, logged: &LoggedParts) -> SetsState {
        let snapshot = self.snapshot + 1;
        let since = |(part, from): &(FilterPart, Option<Cursor>)| {
            let before = self.logged_since.get(part).copied().unwrap_or(self.snapshot);
            (part.clone(), if from.is_some() { before } else { snapshot })
        };
        let from = |(part, from): &(FilterPart, Option<Cursor>)| {
            let from = from.as_ref()?;
            Some((part.clone(), self.logged_from.get(part).unwrap_or(from).clone()))
        };
        SetsState {
            snapshot,
            logged_since: Arc::new(logged.iter().map(since).collect()),
            facets_since: self.facets_since,
            logged_from: Arc::new(logged.iter().filter_map(from).collect()),
        }
    }

    /// True if the log holds every change of what some conditions see that came after a database state, as far as the
    /// log was asked.
    fn logs_all_since(&self, parts: &[FilterPart], shown: &Cursor) -> bool {
        let is_logged = |part| self.logged_from.get(part).is_some_and(|from| shown.sees_all_of(from));
        parts.iter().all(is_logged)
    }

    /// True if a set that was asked for on another snapshot holds for this one, but for the rows that came since.
    pub(crate) fn holds(&self, filter: &Filter, asked_on: u64) -> bool {
        let is_logged = |part| self.logged_since.get(part).is_some_and(|since| *since <= asked_on);
        asked_on == self.snapshot || asked_on < self.snapshot && filter.0.iter().all(|(part, _)| is_logged(part))
    }

    /// True if the facets of the rows are those of this snapshot.
    pub(crate) fn has_facets(&self, filter: &Filter) -> bool {
        let is_logged = |part| self.logged_since.get(part).is_some_and(|since| *since <= self.facets_since);
        filter.0.iter().all(|(part, _)| is_logged(part))
    }

    /// True if the facet by which a parameter chooses rows of a layer is that of this snapshot.
    pub(crate) fn has_facet_of(&self, layer: usize, parameter: &str) -> bool {
        let is_of = |part: &FilterPart| part.layer == layer && part.condition.is_facet_of(parameter);
        self.logged_since.iter().any(|(part, since)| is_of(part) && *since <= self.facets_since)
    }

    /// A facet of which the log has not held all changes since the facets were read, and true if it does not hold them
    /// now; `None` if there is no such facet.
    pub(crate) fn lacking_facet(&self) -> Option<(&FilterPart, bool)> {
        let is_lacking = |(part, since): &(&FilterPart, &u64)| part.condition.is_facet() && **since > self.facets_since;
        self.logged_since.iter().find(is_lacking).map(|(part, since)| (part, *since == self.snapshot))
    }

    /// True if a set of this snapshot hardly holds for the next one.
    pub(crate) fn is_brief(&self, filter: &Filter) -> bool {
        filter.0.iter().any(|(part, _)| self.logged_since.get(part) == Some(&self.snapshot))
    }
}

/// The sets of a tileset.
pub(crate) struct ServedSets {
    filters: FilterSettings,
    table: Mutex<SetTable>,
    state: Mutex<SetsState>,
    /// When all sets were forgotten last.
    begun: Mutex<Instant>,
    facets_read: Mutex<FacetsRead>,
    /// True once somebody wants to know of every condition whether the log holds its changes, not only of those of
    /// sets.
    asks_about_all: AtomicBool,
    /// How many statements asked for sets since the server began.
    statements: AtomicU64,
    /// How many tiles were drawn with sets since the server began.
    tiles: AtomicU64,
    /// How many sets were made of facets since the server began.
    by_facets: AtomicU64,
}

/// When the facets of rows were read, and why they cannot be used; `None` if they can.
struct FacetsRead {
    at: Instant,
    why_not: Option<String>,
}

#[derive(Default)]
struct SetTable {
    sets: HashMap<Filter, Arc<KeptSet>>,
    uses: u64,
    /// The most memory of all sets, in bytes.
    room: usize,
}

impl ServedSets {
    pub(crate) fn new(filters: FilterSettings) -> ServedSets {
        ServedSets {
            filters,
            asks_about_all: AtomicBool::new(false),
            table: Mutex::default(),
            state: Mutex::default(),
            begun: Mutex::new(Instant::now()),
            facets_read: Mutex::new(FacetsRead { at: Instant::now(), why_not: None }),
            statements: AtomicU64::new(0),
            tiles: AtomicU64::new(0),
            by_facets: AtomicU64::new(0),
        }
    }

    /// Notes that rows and their facets were read. They are as good as the changes that the log has had since. What the
    /// log has had before, while no rows were kept, was not asked.
    pub(crate) fn note_rows_read(&self) {
        let mut state = self.state.lock();
        state.facets_since = state.snapshot;
        state.logged_from = Arc::default();
        *self.facets_read.lock() = FacetsRead { at: Instant::now(), why_not: None };
    }

    /// True if the change log holds every change of what some conditions see that came after a database state. False if
    /// that is not known.
    pub(crate) fn logs_all_since(&self, parts: &[FilterPart], shown: &Cursor) -> bool {
        self.asks_about_all.store(true, Ordering::Relaxed);
        self.state.lock().logs_all_since(parts, shown)
    }

    /// True if it is not known yet since when the log holds the changes of some of these conditions.
    pub(crate) fn are_new(&self, logged: &LoggedParts) -> bool {
        let state = self.state.lock();
        logged.iter().any(|(part, from)| from.is_some() && !state.logged_from.contains_key(part))
    }

    /// Notes why facets cannot be used, of which a reading may have others.
    pub(crate) fn note_lacking_facets(&self, why: Option<String>) {
        let mut facets = self.facets_read.lock();
        if let Some(why) = why.as_ref().filter(|_| facets.why_not != why) {
            tracing::info!("filters of live tiles are not answered from facets: {why}");
        }
        facets.why_not = why;
    }

    /// True if rows have to be read anew for their facets: once these cannot be used, after a while.
    pub(crate) fn facets_are_due(&self) -> bool {
        let facets = self.facets_read.lock();
        facets.why_not.is_some() && facets.at.elapsed() >= MAX_AGE
    }

    /// Notes that a set was made of facets.
    pub(crate) fn note_by_facets(&self) {
        self.by_facets.fetch_add(1, Ordering::Relaxed);
    }

    /// The place of a filter's set; `None` if there is no room for sets.
    pub(crate) fn of(&self, filter: &Filter) -> Option<Arc<KeptSet>> {
        let mut table = self.table.lock();
        if filter.bytes() > table.room {
            return None;
        }
        table.uses += 1;
        let uses = table.uses;
        if let Some(kept) = table.sets.get(filter) {
            kept.used.store(uses, Ordering::Relaxed);
            return Some(Arc::clone(kept));
        }
        let kept = Arc::new(KeptSet {
            used: AtomicU64::new(uses),
            bytes: AtomicUsize::new(filter.bytes()),
            ..KeptSet::default()
        });
        table.sets.insert(filter.clone(), Arc::clone(&kept));
        table.evict();
        Some(kept)
    }

    /// True if a set of this size, in bytes, leaves half of the room to others.
    pub(crate) fn have_room_for(&self, bytes: usize) -> bool {
        bytes <= self.table.lock().room / 2
    }

    /// Notes that a statement asked for sets.
    pub(crate) fn note_statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note_size(&self, filter: &Filter, kept: &KeptSet, bytes: usize) {
        let mut table = self.table.lock();
        kept.bytes.store(filter.bytes() + bytes, Ordering::Relaxed);
        table.evict();
    }

    /// Notes that a tile was drawn with sets.
    pub(crate) fn note_drawn(&self) {
        self.tiles.fetch_add(1, Ordering::Relaxed);
    }

    /// The conditions of kept sets and those about facets, each as a layer that only this condition narrows.
    pub(crate) fn narrowed(&self, layers: &[Arc<Layer>]) -> Vec<(FilterPart, Arc<Layer>)> {
        let mut parts: BTreeSet<FilterPart> =
            self.table.lock().sets.keys().flat_map(|filter| &filter.0).map(|(part, _)| part.clone()).collect();
        let asks_about_all = self.asks_about_all.load(Ordering::Relaxed);
        // The facets of rows are kept before somebody asks for them.
        for (number, layer) in layers.iter().enumerate() {
            let is_wanted = |key: &ConditionKey| asks_about_all || key.is_facet();
            let wanted = self.filters.of_layer(layer).into_iter().filter(|condition| is_wanted(&condition.key));
            parts.extend(wanted.map(|condition| FilterPart { layer: number, condition: condition.key }));
        }
        let narrowed = |part: FilterPart| {
            let layer = layers.get(part.layer)?;
            let conditions = self.filters.of_layer(layer);
            let condition = conditions.iter().find(|condition| condition.key == part.condition)?;
            Some((part, Arc::new(layer.narrowed_by(&condition.sql))))
        };
        parts.into_iter().filter_map(narrowed).collect()
    }

    /// The state of a further snapshot, to which rows were brought; see [`SetsState::next`].
    /// Sets that a statement has found are forgotten after a while: a condition may call a function that was replaced.
    pub(crate) fn next_state(&self, logged: &LoggedParts) -> SetsState {
        let mut begun = self.begun.lock();
        if begun.elapsed() >= MAX_AGE {
            self.table.lock().sets.clear();
            *begun = Instant::now();
        }
        drop(begun);
        let mut state = self.state.lock();
        *state = state.next(logged);
        state.clone()
    }

    /// The rows take `rows` bytes of `memory`.
    pub(crate) fn bound(&self, memory: usize, rows: usize) {
        let mut table = self.table.lock();
        table.room = memory.saturating_sub(rows).min(memory / SHARE_OF_MEMORY);
        table.evict();
    }

    pub(crate) fn clear(&self) {
        self.table.lock().sets.clear();
    }

    pub(crate) fn report(&self, rows: LiveRowsReport) -> LiveRowsReport {
        let table = self.table.lock();
        LiveRowsReport {
            sets: table.sets.len(),
            set_bytes: table.bytes(),
            set_statements: self.statements.load(Ordering::Relaxed),
            why_no_facets: self.facets_read.lock().why_not.clone(),
            facet_sets: self.by_facets.load(Ordering::Relaxed),
            set_tiles: self.tiles.load(Ordering::Relaxed),
            ..rows
        }
    }
}

impl SetTable {
    fn bytes(&self) -> usize {
        self.sets.values().map(|kept| kept.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Forgets the sets whose last use is longest ago, until the others fit.
    fn evict(&mut self) {
        let mut bytes = self.bytes();
        while self.sets.len() > MAX_SETS || bytes > self.room {
            let oldest = self.sets.iter().min_by_key(|(_, kept)| kept.used.load(Ordering::Relaxed));
            let Some((filter, kept)) = oldest.map(|(filter, kept)| (filter.clone(), Arc::clone(kept))) else { return };
            bytes = bytes.saturating_sub(kept.bytes.load(Ordering::Relaxed));
            self.sets.remove(&filter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(parameters: &[&str]) -> Filter {
        let part = |name: &&str| {
            (FilterPart { layer: 0, condition: ConditionKey::Parameter((*name).to_owned()) }, "{1}".to_owned())
        };
        Filter(parameters.iter().map(part).collect())
    }

    #[test]
    fn a_set_holds_for_later_snapshots_only_while_the_log_has_what_its_conditions_see() {
        let step = |state: &SetsState, logged: &[(&str, bool)]| {
            let part = |(name, is_logged): &(&str, bool)| {
                (filter(&[name]).0[0].0.clone(), is_logged.then(|| "1:1:".parse().unwrap()))
            };
            state.next(&logged.iter().map(part).collect())
        };
        let (one, both) = (filter(&["a"]), filter(&["a", "b"]));
        let first = step(&SetsState::default(), &[]);
        assert!(first.holds(&one, 1) && !first.holds(&one, 0) && !first.holds(&one, 2) && !first.is_brief(&one));
        let second = step(&first, &[("a", true), ("b", false)]);
        assert!(second.holds(&one, 1) && !second.holds(&both, 1) && second.holds(&both, 2));
        assert!(!second.is_brief(&one) && second.is_brief(&both));
        let third = step(&second, &[("a", true), ("b", true)]);
        assert!(third.holds(&one, 1) && !third.holds(&both, 1) && third.holds(&both, 2));
        // What was not asked about is not known.
        assert!(!step(&third, &[("a", true)]).holds(&both, 3));
        assert!(!step(&step(&third, &[]), &[("a", true)]).holds(&one, 3));
    }

    #[test]
    fn a_tile_is_followed_from_when_the_log_has_all_that_its_conditions_see() {
        let cursor = |text: &str| text.parse::<Cursor>().unwrap();
        let sets = ServedSets::new(FilterSettings::default());
        let parts = |logged: &[(&str, &str)]| -> LoggedParts {
            let part = |(name, from): &(&str, &str)| (filter(&[name]).0[0].0.clone(), from.parse().ok());
            logged.iter().map(part).collect()
        };
        let step = |logged: &[(&str, &str)]| {
            let logged = parts(logged);
            let are_new = sets.are_new(&logged);
            sets.next_state(&logged);
            are_new
        };
        let follows = |names: &[&str], shown: &str| {
            let parts: Vec<FilterPart> = filter(names).0.into_iter().map(|(part, _)| part).collect();
            sets.logs_all_since(&parts, &cursor(shown))
        };
        assert!(step(&[("a", "10:10:")]) && !step(&[("a", "11:11:")]));
        assert!(follows(&["a"], "10:10:") && !follows(&["a"], "9:9:") && !follows(&["b"], "12:12:"));
        assert!(step(&[("a", "19:19:"), ("b", "20:20:")]));
        assert!(follows(&["a"], "12:12:") && follows(&["a", "b"], "20:20:") && !follows(&["b"], "12:12:"));
        // The log lacked a column for a while.
        step(&[("a", ""), ("b", "30:30:")]);
        assert!(!follows(&["a"], "40:40:") && follows(&["b"], "25:25:"));
        step(&[("a", "40:40:"), ("b", "40:40:")]);
        assert!(follows(&["a"], "40:40:") && !follows(&["a"], "35:35:"));
        // No rows were kept for a while.
        sets.note_rows_read();
        assert!(!follows(&["b"], "50:50:") && step(&[("b", "45:45:")]) && follows(&["b"], "45:45:"));
    }

    #[test]
    fn the_sets_that_were_not_used_for_longest_make_room() {
        let sets = ServedSets::new(FilterSettings::default());
        let filters = ["a", "b", "c"].map(|name| filter(&[name]));
        let each = filters[0].bytes() + 1_000;
        sets.bound(1 << 20, 0);
        for filter in &filters {
            sets.note_size(filter, &sets.of(filter).unwrap(), 1_000);
        }
        assert_eq!(sets.report(LiveRowsReport::default()).set_bytes, 3 * each);
        drop(sets.of(&filters[0]));
        sets.bound(8 * each, 6 * each);
        let table = sets.table.lock();
        assert!(table.sets.len() == 2 && !table.sets.contains_key(&filters[1]));
    }
}
