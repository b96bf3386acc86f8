//! Values that statements of a session read: settings of its transaction.

use tokio_postgres::types::Type;

use super::{Error, Param, Session};

/// A value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionValue {
    /// The setting that holds it.
    pub(in crate::postgis) setting: String,
    /// The value: an array of texts, in text form.
    pub(in crate::postgis) array: String,
}

impl Session {
    /// Sets values until the end of the transaction. The session must have its savepoint; the values stay set when it returns there.
    pub(in crate::postgis) async fn set_values(&self, values: &[SessionValue]) -> Result<(), Error> {
        let places: Vec<String> = (0..values.len())
            .map(|index| format!("pg_catalog.set_config(${}, ${}, true)", 2 * index + 1, 2 * index + 2))
            .collect();
        let mut params: Vec<Param<'_>> = Vec::new();
        for SessionValue { setting, array } in values {
            params.push((setting, Type::TEXT));
            params.push((array, Type::TEXT));
        }
        self.release_savepoint().await?;
        self.all("setting the values of a request", &format!("SELECT {}", places.join(", ")), &params).await?;
        self.set_savepoint().await
    }
}
