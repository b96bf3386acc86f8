//! The values of a variant in a session: settings of its transaction, which the conditions of the layers read.

use tokio_postgres::types::Type;

use super::{Error, Param, Session};

/// The name of the setting that holds the value of parameter `number`, counted from 0.
pub(in crate::postgis) fn setting_of(number: usize) -> String {
    format!("oar_tiles.parameter_{}", number + 1)
}

impl Session {
    /// Gives the session's transaction the values of a variant.
    pub(in crate::postgis) async fn set_parameters(&self, values: &[String]) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        let set: Vec<String> =
            (0..values.len()).map(|n| format!("set_config('{}', ${}, true)", setting_of(n), n + 1)).collect();
        let params: Vec<Param<'_>> = values.iter().map(|value| -> Param<'_> { (value, Type::TEXT) }).collect();
        self.all("opening a session", &format!("SELECT {}", set.join(", ")), &params).await.map(drop)
    }
    /// Marks the state to which the session returns before each variant: it holds its locks, and has no values.
    pub(in crate::postgis) async fn set_variant_savepoint(&self) -> Result<(), Error> {
        self.transaction_control("SAVEPOINT oar_tiles_variant", "while opening a session").await
    }

    /// Gives the session's transaction the values of the next variant instead of those of the one before. It keeps them when a statement fails.
    pub(in crate::postgis) async fn begin_variant(&self, values: &[String]) -> Result<(), Error> {
        self.transaction_control("ROLLBACK TO SAVEPOINT oar_tiles_variant", "between two variants").await?;
        self.set_parameters(values).await?;
        self.set_savepoint().await
    }
}
