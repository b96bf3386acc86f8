//! Which database states of shared tiles belong to the history of this database.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::FlightsShared;
use crate::cursor::{NewestLogged, StateInHistory};
use crate::serve::change_log::LiveEpoch;

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
pub(super) struct KnownStates {
    /// The epoch since which the database has its present history.
    since: LiveEpoch,
    /// By the text of the state.
    answers: HashMap<String, Answered>,
}

/// Whether this database has a state that a shared tile shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It has.
    Ours,
    /// It has not reached the state, or does not say so at once.
    Ahead,
    /// With these transaction numbers it has other changes, or its log does not hold them any more.
    Other,
}

impl Judgement {
    fn of(shown: &StateInHistory, newest: NewestLogged) -> Judgement {
        if shown.newest == newest { Judgement::Ours } else { Judgement::Other }
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

impl FlightsShared {
    /// Notes a state that this server need not ask about, because it has rendered a tile in it. If the states are locked, it will ask.
    pub(super) fn note_own(&self, shown: &StateInHistory) {
        if let Ok(mut states) = self.states.try_lock() {
            states.of(self.known.epochs().of_this_history()).note(shown);
        }
    }

    /// Whether this database has a state that a shared tile shows. It is asked once for each state, which many tiles show. Requests share its
    /// answer, because they wait for the lock.
    pub(super) async fn judged(&self, shown: &StateInHistory) -> Judgement {
        let asking = async {
            let mut states = self.states.lock().await;
            let states = states.of(self.known.epochs().of_this_history());
            let remembered = states.answers.get(&shown.state.to_string()).copied();
            let is_believed = |answer: &Answered| self.known.is_followed() || answer.at.elapsed() < UNFOLLOWED_LIFE;
            if let Some(Answered { newest, .. }) = remembered.filter(is_believed) {
                return Judgement::of(shown, newest);
            }
            match self.source.ask_about(&shown.state).await {
                Ok(now) if now.present.sees_all_of(&shown.state) => {
                    let here = StateInHistory { newest: now.newest, ..shown.clone() };
                    // Until the next look, this answer may be about what a crash loses.
                    self.known.keeps(&here);
                    states.note(&here);
                    Judgement::of(shown, now.newest)
                }
                // A database that was set back comes to these transactions again, and they will be others.
                Ok(_) => Judgement::Ahead,
                // As long as the database is away, nothing else has happened in it.
                Err(_) => remembered.map_or(Judgement::Ahead, |answer| Judgement::of(shown, answer.newest)),
            }
        };
        tokio::time::timeout(ASK_LIMIT, asking).await.unwrap_or(Judgement::Ahead)
    }
}
