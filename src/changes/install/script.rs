//! The whole script of an install, from BEGIN to COMMIT.

use super::owner::FunctionOwner;
use crate::changes::error::OVERTAKEN;
use crate::changes::log::{ADD_KEY, Facts, LAYOUT, SAFE_LAYOUT, WATCHER_LOCK, at_postgis, of_schema};
use crate::postgis::quoted;

/// A planned install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The statements, from BEGIN to COMMIT, as psql takes them; only a comment if there is nothing to do.
    pub sql: String,
    /// Whether there is nothing to do.
    pub is_done: bool,
    /// What the statements do, a line each: tables, columns, triggers.
    pub steps: Vec<String>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// The state of the database for which a script is written.
pub(in crate::changes) struct ScriptContext<'a> {
    pub(in crate::changes) schema: &'a str,
    pub(in crate::changes) postgis: &'a str,
    /// The log as installed; `None` if no log is installed.
    pub(in crate::changes) facts: Option<&'a Facts>,
    pub(in crate::changes) owner: &'a FunctionOwner,
    /// True if the triggers can do more than append to the log.
    pub(in crate::changes) is_unsafe: bool,
    /// The highest id of a watch.
    pub(in crate::changes) last: i32,
}

impl ScriptContext<'_> {
    /// The script around the statements for watches and layers.
    pub(in crate::changes) fn write(
        &self,
        statements: Vec<String>,
        mut steps: Vec<String>,
        readers: &[String],
        warnings: Vec<String>,
    ) -> Installation {
        let schema = quoted(self.schema);
        let begin = match self.facts {
            None => {
                steps.insert(0, format!("schema {schema}: the change log"));
                self.new_log()
            }
            Some(facts) => self.known_log(facts),
        };
        if self.facts.is_some_and(|facts| !facts.has_key) {
            steps.push(format!("schema {schema}: the key by which targets say which database they show"));
        }
        let is_upgrade = self.facts.is_some_and(|facts| facts.layout < SAFE_LAYOUT);
        let is_owned_anew = self.facts.is_none_or(|facts| self.owner.differs(facts)) || is_upgrade || self.is_unsafe;
        if is_owned_anew {
            steps.push(self.owner.step());
        }
        let is_done = steps.is_empty() && readers.is_empty();
        if is_done {
            let sql = "-- Everything is installed.\n".to_owned();
            return Installation { sql, is_done, steps, warnings };
        }
        let mut parts = vec![
            format!(
                "BEGIN READ WRITE;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL lock_timeout = '10s';   -- every later session queues behind one that waits for a table
SET LOCAL statement_timeout = 0;
SELECT pg_advisory_xact_lock({}, {}); -- one install at a time",
                WATCHER_LOCK.0,
                WATCHER_LOCK.1 + 1
            ),
            of_schema(if self.facts.is_none() { include_str!("sql/schema.sql") } else { "" }, self.schema),
            of_schema("{guard}", self.schema),
            begin,
        ];
        let alters = is_owned_anew || !statements.is_empty();
        if alters {
            parts.push(self.owner.begin(self.schema, self.facts.is_none_or(|facts| self.owner.differs(facts))));
            parts.extend(statements);
            parts.push(format!("UPDATE {schema}.state SET installs = installs + 1, last_watch = {};", self.last));
            parts.push(self.owner.end(self.schema, self.postgis));
        }
        for reader in readers {
            let reader = quoted(reader);
            parts.push(format!(
                "GRANT USAGE ON SCHEMA {schema} TO {reader};\nGRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {reader};"
            ));
            steps.push(format!("role {reader}: may read the change log"));
        }
        parts.push("COMMIT;".to_owned());
        let sql = parts
            .iter()
            .map(|part| part.trim_end())
            .filter(|part| !part.is_empty())
            .map(|part| format!("{part}\n"))
            .collect::<Vec<_>>()
            .join("\n");
        Installation { sql, is_done, steps, warnings }
    }

    /// The tables of a new log.
    fn new_log(&self) -> String {
        let layout = at_postgis(include_str!("sql/layout.sql"), self.postgis).replace("{layout}", &LAYOUT.to_string());
        let layout = layout.replace("{schema}", &quoted(self.schema));
        format!("{layout}\n{}\n{}", self.add_key(), of_schema(include_str!("sql/new.sql"), self.schema))
    }

    /// The statements that give the log its key.
    fn add_key(&self) -> String {
        ADD_KEY.replace("{schema}", &quoted(self.schema))
    }

    /// The check that the log is still in the state for which the script was written, and what an older layout lacks.
    fn known_log(&self, facts: &Facts) -> String {
        let schema = quoted(self.schema);
        let check = format!(
            "-- The script fits only the state of the log for which it was written.
DO $oar_tiles$ BEGIN
    IF (SELECT installs FROM {schema}.state) <> {} THEN
        RAISE EXCEPTION 'something else was installed meanwhile' USING ERRCODE = '{OVERTAKEN}';
    END IF;
END $oar_tiles$;",
            facts.installs
        );
        let check = if facts.has_key { check } else { format!("{check}\n{}", self.add_key()) };
        if facts.layout == LAYOUT {
            return check;
        }
        let owner = if facts.layout < SAFE_LAYOUT {
            format!(
                "ALTER TABLE {schema}.state ADD COLUMN owner text, ADD COLUMN owner_is_made boolean NOT NULL DEFAULT false;\n"
            )
        } else {
            String::new()
        };
        format!("{check}\n{owner}UPDATE {schema}.state SET layout = {LAYOUT};")
    }
}
