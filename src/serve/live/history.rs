//! Which database states of shared tiles belong to the history of this database.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::LiveSource;
use crate::cursor::{NewestLogged, StateInHistory};
use crate::serve::known_changes::{KnownChanges, LiveEpoch};

/// The most states that are remembered. Then all are forgotten, and asked for again when tiles show them.
const MAX_REMEMBERED: usize = 4_096;

/// How long an answer is believed if no change log is followed, so that nobody notices that the database was restored.
const UNFOLLOWED_LIFE: Duration = Duration::from_secs(1);

/// The longest that a request waits for the database's answer before it renders its tile.
const ASK_LIMIT: Duration = Duration::from_millis(50);

/// What the database said of a state.
#[derive(Debug, Clone, Copy)]
struct Answered {
    newest: NewestLogged,
    at: Instant,
}

/// The states of which the database has said which transaction in the change log is the newest that they see.
#[derive(Debug, Default)]
struct KnownStates {
    /// The epoch since which the database has its present history.
    since: LiveEpoch,
    /// By the text of the state.
    answers: HashMap<String, Answered>,
}

/// Whether this database has a state that a shared tile shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HistoryMatch {
    Ours,
    /// It has not reached the state, or does not say so at once.
    Ahead,
    /// With these transaction numbers it has other changes, or its log does not hold them any more.
    Other,
}

impl HistoryMatch {
    fn of(shown: &StateInHistory, newest: NewestLogged) -> HistoryMatch {
        if shown.newest == newest { HistoryMatch::Ours } else { HistoryMatch::Other }
    }
}

impl KnownStates {
    fn of(&mut self, since: LiveEpoch) -> &mut KnownStates {
        if self.since != since {
            *self = KnownStates { since, answers: HashMap::new() };
        }
        self
    }

    fn note(&mut self, shown: &StateInHistory) {
        if self.answers.len() >= MAX_REMEMBERED {
            self.answers.clear();
        }
        self.answers.insert(shown.state.to_string(), Answered { newest: shown.newest, at: Instant::now() });
    }
}

/// The states about which the database was asked, and those in which this server has rendered tiles.
#[derive(Debug, Default)]
pub(crate) struct StateHistory(tokio::sync::Mutex<KnownStates>);

impl StateHistory {
    /// Notes a state that this server need not ask about, because it has rendered a tile in it. If the states are
    /// locked, it will ask.
    pub(crate) fn note_own(&self, known: &KnownChanges, shown: &StateInHistory) {
        if let Ok(mut states) = self.0.try_lock() {
            states.of(known.epochs().of_this_history()).note(shown);
        }
    }

    /// Whether this database has a state that a shared tile shows. It is asked once for each state, which many tiles
    /// show. Requests share its answer, because they wait for the lock.
    pub(crate) async fn compare(
        &self,
        known: &KnownChanges,
        source: &dyn LiveSource,
        shown: &StateInHistory,
    ) -> HistoryMatch {
        let asking = async {
            let mut states = self.0.lock().await;
            let states = states.of(known.epochs().of_this_history());
            let remembered = states.answers.get(&shown.state.to_string()).copied();
            let is_believed = |answer: &Answered| known.is_followed() || answer.at.elapsed() < UNFOLLOWED_LIFE;
            if let Some(Answered { newest, .. }) = remembered.filter(is_believed) {
                return HistoryMatch::of(shown, newest);
            }
            match source.ask_about(&shown.state).await {
                Ok(now) if now.present.sees_all_of(&shown.state) => {
                    let here = StateInHistory { newest: now.newest, ..shown.clone() };
                    // Until the next look, this answer may be about what a crash loses.
                    known.add_unconfirmed(&here);
                    states.note(&here);
                    HistoryMatch::of(shown, now.newest)
                }
                // A database that was set back comes to these transactions again, and they will be others.
                Ok(_) => HistoryMatch::Ahead,
                // As long as the database is away, nothing else has happened in it.
                Err(_) => remembered.map_or(HistoryMatch::Ahead, |answer| HistoryMatch::of(shown, answer.newest)),
            }
        };
        tokio::time::timeout(ASK_LIMIT, asking).await.unwrap_or(HistoryMatch::Ahead)
    }
}
