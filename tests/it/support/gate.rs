//! A gate in front of a run's statements: while a test holds it, the statement waits in the server, as if it took long.
//! So no test has to guess how long something takes.

use std::path::Path;

use super::{Db, until};

/// Which statements come to the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The survey.
    Survey,
    /// The reading of rows, once for all zooms.
    Rows,
    /// The first tile, drawn by the database.
    Render,
    /// Zoom 14, after all others.
    Deep,
}

/// Waits for the gate; returns an empty text for a property. The lock is shared, so sessions do not wait for each
/// other. The wait simulates a long statement, so it is not limited like a wait for a lock.
pub(crate) const PASS: &str = "(SELECT left(concat(set_config('lock_timeout', '0', true), pg_advisory_xact_lock_shared(1)::text, set_config('lock_timeout', before, true)), 0) FROM (SELECT current_setting('lock_timeout') AS before OFFSET 0) AS gate)";

/// Creates the function `public.pass(door)`. Each statement that calls it takes the next number of the door and waits
/// until nobody holds the exclusive advisory lock `(door + 100, number)`. So a test that holds these locks lets
/// statements through one by one. Sessions of the program only read, so the numbers are advisory locks, too: a
/// statement takes the first number that no other session has, and that this session has not had.
pub(crate) const PASSES_DOORS: &str = "
CREATE FUNCTION public.pass(door int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    number int := coalesce(nullif(current_setting('doors.last', true), ''), '0')::int;
    before text := current_setting('lock_timeout');
BEGIN
    IF current_setting('doors.passed', true) IS NOT DISTINCT FROM statement_timestamp()::text THEN
        RETURN '';
    END IF;
    LOOP
        number := number + 1;
        EXIT WHEN pg_try_advisory_xact_lock(door, number);
    END LOOP;
    PERFORM set_config('doors.last', number::text, false);
    -- The wait stands for a long statement, so it has no limit as one for a lock.
    PERFORM set_config('lock_timeout', '0', true);
    PERFORM pg_advisory_xact_lock_shared(door + 100, number);
    PERFORM set_config('lock_timeout', before, true);
    PERFORM set_config('doors.passed', statement_timestamp()::text, false);
    RETURN '';
END $$";

/// Writes a configuration whose statements wait at the gate, with more settings; returns its path.
pub(crate) fn gated(folder: &Path, place: Place, more: &str) -> String {
    let path = folder.join(format!("{place:?}.toml"));
    let layer = |name: &str, zoom: &str, gate: &str, filter: &str| {
        format!(
            "[[layer]]\nname = \"{name}\"\ntable = \"api_facility\"\nkey = [\"id\"]\nzoom = \"{zoom}\"\n{filter}\n\
             properties = {{ id = \"id\", name = \"name\", gate = \"{gate}\" }}\n"
        )
    };
    let layers = match place {
        Place::Survey => layer("facilities", "0-14", "''", &format!("where = \"{PASS} = ''\"")),
        Place::Rows | Place::Render => layer("facilities", "0-14", PASS, ""),
        Place::Deep => layer("facilities", "0-13", "''", "") + &layer("deep", "14", PASS, ""),
    };
    let rows = if place == Place::Render { "rows_mb = 0\n" } else { "" };
    // Small batches, so that there are many.
    std::fs::write(&path, format!("{layers}[run]\nworkers = 2\nbatch_features = 100\n{rows}{more}")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The gate. It is closed until this value is dropped, or the server ends.
pub(crate) struct Gate<'a>(&'a Db);

impl<'a> Gate<'a> {
    /// Closes it.
    pub(crate) fn close(db: &'a Db) -> Gate<'a> {
        db.run("SELECT pg_advisory_lock(1)");
        Gate(db)
    }

    /// Waits until this number of sessions wait at the gate.
    #[track_caller]
    pub(crate) fn wait_for(&self, sessions: i64) {
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'";
        until("sessions at the gate", || self.0.value::<i64>(waiting) >= sessions);
    }

    /// Opens it for those who wait, and closes it once their transactions have ended. Others wait behind this.
    pub(crate) fn let_one_through(&self) {
        self.0.run("SELECT pg_advisory_unlock(1); SELECT pg_advisory_lock(1)");
    }

    /// Opens it.
    pub(crate) fn open(self) {
        self.0.run("SELECT pg_advisory_unlock(1)");
    }
}
