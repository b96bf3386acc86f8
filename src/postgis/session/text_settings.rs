//! The settings that decide how values are written as texts and read from texts: one list for the sessions that draw,
//! for the triggers that write the change log, and for the sessions that read it.

use tokio_postgres::types::Type;

use super::{Error, Param, Session};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextSetting {
    pub(crate) name: &'static str,
    pub(crate) value: &'static str,
}

const fn setting(name: &'static str, value: &'static str) -> TextSetting {
    TextSetting { name, value }
}

/// Fixed in every session, and in the triggers: how dates, times, numbers and bytes read in a tile and in the change
/// log.
pub(crate) const DRAWN_TEXTS: [TextSetting; 5] = [
    setting("timezone", "UTC"),
    setting("datestyle", "ISO, MDY"),
    setting("intervalstyle", "postgres"),
    setting("extra_float_digits", "1"),
    setting("bytea_output", "hex"),
];

/// Fixed in the triggers, and in a session only while it reads texts of the change log. Tiles are drawn with the
/// settings of the role, because `lc_monetary` also decides how an amount of money reads in a tile.
pub(crate) const LOGGED_TEXTS: [TextSetting; 3] =
    [setting("lc_monetary", "C"), setting("array_nulls", "on"), setting("xmloption", "content")];

/// Statements that fix [`DRAWN_TEXTS`] for the transaction.
pub(crate) fn fix_drawn_texts() -> String {
    DRAWN_TEXTS.iter().map(|TextSetting { name, value }| format!("SET LOCAL {name} = '{value}'; ")).collect()
}

impl Session {
    /// Runs `reading`, which reads texts of the change log, with [`LOGGED_TEXTS`]; afterwards the settings are as
    /// before. If `reading` fails, they are not: the transaction is lost, or returns to a savepoint.
    pub(crate) async fn with_logged_texts<T>(
        &self,
        context: &str,
        reading: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        // A savepoint would restore the settings, too, but also release the locks that `reading` takes.
        let set: Vec<String> = LOGGED_TEXTS
            .iter()
            .map(|TextSetting { name, value }| format!("was.{name}, set_config('{name}', '{value}', true)"))
            .collect();
        let was: Vec<String> = LOGGED_TEXTS
            .iter()
            .map(|TextSetting { name, .. }| format!("current_setting('{name}') AS {name}"))
            .collect();
        // OFFSET 0, so that the old values are read before the new ones are set.
        let sql = format!("SELECT {} FROM (SELECT {} OFFSET 0) AS was", set.join(", "), was.join(", "));
        let row = self.one(context, &sql, &[]).await?;
        let before: Vec<String> = (0..LOGGED_TEXTS.len()).map(|number| row.get(2 * number)).collect();
        let read = reading.await?;
        let restore: Vec<String> = LOGGED_TEXTS
            .iter()
            .enumerate()
            .map(|(number, TextSetting { name, .. })| format!("set_config('{name}', ${}, true)", number + 1))
            .collect();
        let params: Vec<Param<'_>> = before.iter().map(|value| -> Param<'_> { (value, Type::TEXT) }).collect();
        self.all(context, &format!("SELECT {}", restore.join(", ")), &params).await?;
        Ok(read)
    }
}
