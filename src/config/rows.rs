//! The source of a layer's rows: a table or a query.

use super::error::ConfigError;
use super::file::LayerSection;
use super::settings::Check;
use crate::postgis::{Query, Rows};

impl Check<'_> {
    /// The source of the layer's rows.
    pub(super) fn rows(&self, layer: &LayerSection) -> Result<Rows, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let sql = match (&layer.table, &layer.sql) {
            (Some(table), None) => return Ok(Rows::Relation { schema: layer.schema.clone(), table: table.clone() }),
            (None, Some(sql)) => sql,
            (None, None) => {
                let what = "is missing, and there is no sql and no function: write table = \"…\", sql = \"\"\"SELECT …\"\"\" or function = \"…\"";
                return Err(self.wrong(&key("table"), what.to_owned()));
            }
            (Some(_), Some(_)) => {
                return Err(self.wrong(&key("sql"), "stands beside table: a layer has one or the other".to_owned()));
            }
        };
        if layer.schema.is_some() {
            let what = "stands beside sql, and belongs to table: name the schema in the query".to_owned();
            return Err(self.wrong(&key("schema"), what));
        }
        let query = Query::new(sql).map_err(|error| self.wrong(&key("sql"), error.to_string()))?;
        let gathers =
            if layer.aggregate.is_some() { Some("aggregate") } else { layer.cluster.as_ref().map(|_| "cluster") };
        if let Some(gathers) = gathers.filter(|_| query.asks_box()) {
            let what = format!(
                "has !bbox! beside [layer.{gathers}]: a cell needs all of its members, wherever tiles end. Leave the condition with !bbox! out: the index is used all the same"
            );
            return Err(self.wrong(&key("sql"), what));
        }
        Ok(Rows::Query(query))
    }
}
