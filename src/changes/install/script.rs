//! The whole script of an install, from BEGIN to COMMIT.

use super::locks::{TableLocks, one_at_a_time};
use super::owner::FunctionOwner;
use crate::changes::error::OVERTAKEN;
use crate::changes::log::{ADD_KEY, Facts, LAYOUT, SAFE_LAYOUT, at_postgis, of_schema};
use crate::postgis::quoted;

/// A planned install.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    /// The statements, from BEGIN to COMMIT, as psql takes them; only a comment if there is nothing to do.
    pub sql: String,
    /// True if there is nothing to do.
    pub is_done: bool,
    /// What the statements do, one line for each table, column or trigger.
    pub steps: Vec<String>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// The part of a script that changes watches and layers.
pub(in crate::changes) struct ScriptWork {
    pub(in crate::changes) statements: Vec<String>,
    /// What the statements do, in words.
    pub(in crate::changes) steps: Vec<String>,
    /// The tables that they alter.
    pub(in crate::changes) locks: TableLocks,
}

/// The first statements of a script.
pub(in crate::changes) const BEGIN: &str = include_str!("sql/begin.sql");

/// The statements that let the tables be published.
const REPLICA_IDENTITY: &str = include_str!("sql/replica_identity.sql");

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
    /// Writes the whole script, with the statements for watches and layers.
    pub(in crate::changes) fn write(
        &self,
        work: ScriptWork,
        readers: &[String],
        warnings: Vec<String>,
    ) -> Installation {
        let ScriptWork { statements, mut steps, locks } = work;
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
        if self.facts.is_some_and(|facts| facts.ahead.is_some()) {
            steps.push(format!(
                "schema {schema}: emptied, because it is ahead of the database. Every target needs a seed"
            ));
        }
        if self.facts.is_some_and(|facts| !facts.is_identified) {
            steps.push(format!("schema {schema}: a replica identity, so that its tables may be published"));
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
            BEGIN.to_owned(),
            one_at_a_time(),
            of_schema(if self.facts.is_none() { include_str!("sql/schema.sql") } else { "" }, self.schema),
            of_schema("{guard}", self.schema),
            locks.block(&self.altered_tables()),
            begin,
        ];
        let alters = is_owned_anew || !statements.is_empty();
        if alters {
            parts.push(self.owner.begin(self.schema, self.facts.is_none_or(|facts| self.owner.differs(facts))));
            parts.extend(statements);
            parts.push(format!("UPDATE {schema}.state SET installs = installs + 1, last_watch = {};", self.last));
            parts.push(self.owner.end(self.schema));
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

    /// The tables of the log that the script alters.
    fn altered_tables(&self) -> Vec<String> {
        let Some(facts) = self.facts else { return Vec::new() };
        let altered = [
            ("change", !facts.is_identified),
            ("needs", !facts.is_identified),
            ("state", !facts.has_key || facts.layout < SAFE_LAYOUT),
        ];
        let altered = altered.into_iter().filter(|(_, is_altered)| *is_altered);
        altered.map(|(table, _)| format!("{}.{}", quoted(self.schema), quoted(table))).collect()
    }

    /// The tables of a new log.
    fn new_log(&self) -> String {
        let layout = at_postgis(include_str!("sql/layout.sql"), self.postgis).replace("{layout}", &LAYOUT.to_string());
        let layout = layout.replace("{replica_identity}", REPLICA_IDENTITY.trim_end());
        let layout = layout.replace("{schema}", &quoted(self.schema));
        format!("{layout}\n{}\n{}", self.add_key(), of_schema(include_str!("sql/new.sql"), self.schema))
    }

    /// The statements that give the log its key.
    fn add_key(&self) -> String {
        ADD_KEY.replace("{schema}", &quoted(self.schema))
    }

    /// The check that the log is still in the state for which the script was written, and the statements for what an older layout lacks.
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
        let mut check = check;
        if !facts.is_identified {
            check.push_str(&format!("\n{}", REPLICA_IDENTITY.replace("{schema}", &schema)));
        }
        if facts.ahead.is_some() {
            check.push_str(&format!("\n{}", include_str!("sql/anew.sql").replace("{schema}", &schema)));
        }
        if !facts.has_key || facts.ahead.is_some() {
            check.push_str(&format!("\n{}", self.add_key()));
        }
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
