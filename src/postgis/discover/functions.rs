//! Functions that return the bytes of a tile, in the form in which other tile servers call them.

use serde::Deserialize;

use super::catalog::objects;
use crate::postgis::session::{Error, Session, quoted};

/// A function whose arguments and result have the types of a function that returns tiles. The fields are those of the JSON of `sql/functions.sql`.
#[derive(Debug, Clone, Deserialize)]
pub struct SpatialFunction {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// The types of its arguments.
    pub arguments: Vec<String>,
    /// True if the search path finds it by its name alone.
    pub is_visible: bool,
}

impl SpatialFunction {
    /// Its schema, name and arguments as SQL, by which a configuration names it.
    #[must_use]
    pub fn signature(&self) -> String {
        format!("{}.{}({})", quoted(&self.schema), quoted(&self.name), self.arguments.join(", "))
    }

    /// Its name as a person would write it: with its schema unless the search path finds it without.
    #[must_use]
    pub fn name_for_people(&self) -> String {
        let name = if self.is_visible { self.name.clone() } else { format!("{}.{}", self.schema, self.name) };
        format!("{name}({})", self.arguments.join(", "))
    }
}

/// All such functions, by schema and name, without those of extensions.
pub(in crate::postgis) async fn functions(session: &Session) -> Result<Vec<SpatialFunction>, Error> {
    objects(session, include_str!("sql/functions.sql"), &[]).await
}
