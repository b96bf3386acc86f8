//! The values of a variant in a session: settings of its transaction, which the conditions of the layers read.

use tokio_postgres::types::Type;

use super::{Error, Param, Session};

/// The name of the setting that holds the value of parameter `number`, counted from 0.
pub(in crate::postgis) fn setting_of(number: usize) -> String {
    format!("oar_tiles.parameter_{}", number + 1)
}

impl Session {
    /// Sets the values of a variant in the session's transaction.
    pub(in crate::postgis) async fn set_parameters(&self, values: &[String]) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        let set: Vec<String> =
            (0..values.len()).map(|n| format!("set_config('{}', ${}, true)", setting_of(n), n + 1)).collect();
        let params: Vec<Param<'_>> = values.iter().map(|value| -> Param<'_> { (value, Type::TEXT) }).collect();
        self.all("opening a session", &format!("SELECT {}", set.join(", ")), &params).await.map(drop)
    }
    /// Sets the savepoint to which the session returns before each variant. At this point it holds its locks, and no values are set.
    pub(in crate::postgis) async fn set_variant_savepoint(&self) -> Result<(), Error> {
        self.transaction_control("SAVEPOINT oar_tiles_variant", "while opening a session").await
    }

    /// Replaces the values of the previous variant in the session's transaction by those of the next. They stay set when a statement fails.
    pub(in crate::postgis) async fn begin_variant(&self, values: &[String]) -> Result<(), Error> {
        self.transaction_control("ROLLBACK TO SAVEPOINT oar_tiles_variant", "between two variants").await?;
        self.set_parameters(values).await?;
        self.set_savepoint().await
    }
}
