//! A transaction snapshot as a cursor: the transactions that a target has seen. Another history of the database has
//! other transactions with the same numbers; the newest one in the change log tells them apart.

#![warn(missing_docs, reason = "users of the library begin here")]

use std::fmt;
use std::str::FromStr;

/// A `pg_snapshot` (PostgreSQL documentation, section 9.27.7): the transactions that had ended when it was taken.
///
/// Transaction ids have 64 bits (`xid8`), so they do not wrap around.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// All transactions before this one had ended.
    xmin: u64,
    /// This transaction and all after it had not ended.
    xmax: u64,
    /// The transactions in between that had not ended, ascending.
    running: Vec<u64>,
}

/// A cursor that has seen nothing.
impl Default for Cursor {
    fn default() -> Cursor {
        // No transaction has an id below 3 (PostgreSQL documentation, section 74.1).
        Cursor { xmin: 1, xmax: 1, running: Vec::new() }
    }
}

/// The error for a text that is not a `pg_snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no snapshot: write it as pg_current_snapshot() does, such as 1000:1010:1003,1007")]
pub struct CursorError(String);

impl Cursor {
    /// The cursor that sees all transactions before `xmin`, and of the others exactly `seen`, which ascend.
    pub(crate) fn seeing(xmin: u64, seen: &[u64]) -> Cursor {
        let xmax = seen.last().map_or(xmin, |last| last + 1);
        Cursor { xmin, xmax, running: (xmin..xmax).filter(|id| seen.binary_search(id).is_err()).collect() }
    }

    /// The first transaction that may not have ended.
    pub const fn xmin(&self) -> u64 {
        self.xmin
    }

    /// The first transaction that had not begun.
    pub const fn xmax(&self) -> u64 {
        self.xmax
    }

    /// True if a transaction had ended at this snapshot, by the rules of `pg_visible_in_snapshot` for committed
    /// transactions.
    pub fn sees(&self, transaction: u64) -> bool {
        transaction < self.xmin || transaction < self.xmax && self.running.binary_search(&transaction).is_err()
    }

    /// The cursor that sees exactly the transactions that both cursors see.
    #[must_use]
    pub fn meet(&self, other: &Cursor) -> Cursor {
        let (xmin, xmax) = (self.xmin.min(other.xmin), self.xmax.min(other.xmax));
        let mut running: Vec<u64> =
            self.running.iter().chain(&other.running).copied().filter(|id| *id < xmax).collect();
        running.sort_unstable();
        running.dedup();
        Cursor { xmin, xmax, running }
    }

    /// True if every transaction that `other` sees as ended had ended at this snapshot, too.
    pub fn sees_all_of(&self, other: &Cursor) -> bool {
        other.xmax <= self.xmax && self.running.iter().all(|transaction| !other.sees(*transaction))
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Cursor, CursorError> {
        let read = || {
            let mut parts = text.split(':');
            let (xmin, xmax, running) = (parts.next()?, parts.next()?, parts.next()?);
            let number = |text: &str| text.parse::<u64>().ok();
            let running =
                running.split(',').filter(|text| !text.is_empty()).map(number).collect::<Option<Vec<u64>>>()?;
            let cursor = Cursor { xmin: number(xmin)?, xmax: number(xmax)?, running };
            let ordered = cursor.running.is_sorted_by(|a, b| a < b)
                && cursor.running.iter().all(|id| (cursor.xmin..cursor.xmax).contains(id));
            (parts.next().is_none() && cursor.xmin <= cursor.xmax && ordered).then_some(cursor)
        };
        read().ok_or_else(|| CursorError(text.to_owned()))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let running: Vec<String> = self.running.iter().map(u64::to_string).collect();
        write!(f, "{}:{}:{}", self.xmin, self.xmax, running.join(","))
    }
}

/// The newest transactions in the change log that a database state sees. A database that was restored passes the same
/// transaction numbers again, at other times, so the same cursor has others there. A database that lost its last commits
/// in a crash may lack one that is not the newest by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewestLogged {
    /// There is no log, or it cannot be read.
    NoLog,
    /// The log holds nothing that the state sees.
    Nothing,
    /// This transaction, and others before it.
    Transaction {
        /// The number of the newest one.
        xid: u64,
        /// When its first change was logged, in the form in which PostgreSQL sends a `timestamptz`.
        at: u64,
        /// A hash of the numbers and times of the newest transactions, up to 64.
        digest: u64,
    },
}

/// The error for a text that does not name the newest transaction of a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name the newest transaction of a change log")]
pub struct NewestLoggedError(String);

impl FromStr for NewestLogged {
    type Err = NewestLoggedError;

    fn from_str(text: &str) -> Result<NewestLogged, NewestLoggedError> {
        let transaction = || {
            let (xid, rest) = text.split_once('@')?;
            let (at, digest) = rest.split_once('+')?;
            let [at, digest] = [at, digest].map(|number| u64::from_str_radix(number, 16).ok());
            Some(NewestLogged::Transaction { xid: xid.parse().ok()?, at: at?, digest: digest? })
        };
        match text {
            "unlogged" => Some(NewestLogged::NoLog),
            "nothing" => Some(NewestLogged::Nothing),
            _ => transaction(),
        }
        .ok_or_else(|| NewestLoggedError(text.to_owned()))
    }
}

impl fmt::Display for NewestLogged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NewestLogged::NoLog => f.write_str("unlogged"),
            NewestLogged::Nothing => f.write_str("nothing"),
            NewestLogged::Transaction { xid, at, digest } => write!(f, "{xid}@{at:016x}+{digest:016x}"),
        }
    }
}

/// A database state, and what distinguishes its history from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateInHistory {
    /// The state.
    pub state: Cursor,
    /// The newest transaction in the change log that it sees.
    pub newest: NewestLogged,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_sees_the_transactions_that_had_ended() {
        let cursor: Cursor = "1000:1010:1003,1007".parse().unwrap();
        for (transaction, seen) in [
            (3, true),
            (999, true),
            (1000, true),
            (1003, false),
            (1004, true),
            (1007, false),
            (1009, true),
            (1010, false),
            (u64::MAX, false),
        ] {
            assert_eq!(cursor.sees(transaction), seen, "{transaction}");
        }
        assert_eq!((cursor.xmin(), cursor.xmax(), cursor.to_string()), (1000, 1010, "1000:1010:1003,1007".to_owned()));
        for (older, sees) in [
            ("900:900:", true),
            ("1000:1010:1003,1007", true),
            ("1000:1010:1003,1005,1007", true),
            ("1003:1003:", true),
            ("1000:1010:1007", false),
            ("1004:1004:", false),
            ("1000:1011:1003,1007,1010", false),
        ] {
            assert_eq!(cursor.sees_all_of(&older.parse().unwrap()), sees, "{older}");
        }
        let idle: Cursor = "4294967299:4294967299:".parse().unwrap();
        assert!(idle.sees(4_294_967_298) && !idle.sees(4_294_967_299));
        assert_eq!(idle.to_string(), "4294967299:4294967299:");
    }

    #[test]
    fn two_cursors_meet_in_what_both_see() {
        let all = ["900:900:", "1000:1010:1003,1007", "1004:1012:1005", "1003:1003:", "1:1:", "1005:1011:1006,1008"];
        for (one, other) in all.iter().flat_map(|one| all.iter().map(move |other| (one, other))) {
            let (one, other): (Cursor, Cursor) = (one.parse().unwrap(), other.parse().unwrap());
            let both = one.meet(&other);
            assert_eq!(both.to_string().parse::<Cursor>().unwrap(), both, "{one} {other}");
            for id in 1..1_020 {
                assert_eq!(both.sees(id), one.sees(id) && other.sees(id), "{one} {other} {id}");
            }
        }
    }

    #[test]
    fn texts_that_are_no_snapshots_are_refused() {
        for text in ["", "1", "1:2", "2:1:", "1:2:3", "1:9:5,4", "1:9:4,4", "1:9:x", "1:9::", "-1:2:", "1:9:4, 5"] {
            let message = text.parse::<Cursor>().unwrap_err().to_string();
            assert_eq!(
                message,
                format!("{text:?} is no snapshot: write it as pg_current_snapshot() does, such as 1000:1010:1003,1007")
            );
        }
    }
}
