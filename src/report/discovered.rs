//! The tables and functions that `init` found in a database, as a table, and what to do next.

use super::summary::{counted, table_of};
use super::{grouped, visible_line};
use crate::suggested::{OWN_FILE, SEED, for_shell};
use crate::tile::LonLatBox;

/// What `init` found in a database.
#[derive(Debug, Clone)]
pub struct DiscoveredTables {
    pub columns: Vec<DiscoveredColumn>,
    /// The functions that return tiles.
    pub functions: Vec<DiscoveredFunction>,
    /// Remarks for the user, with the SQL that helps.
    pub remarks: Vec<String>,
    /// The output to which the tiles of these layers go.
    pub output: String,
    /// The number of layers that can be drawn.
    pub layers: usize,
}

/// A function that returns tiles.
#[derive(Debug, Clone)]
pub struct DiscoveredFunction {
    /// Its name and the types of its arguments, as a person would write them.
    pub name: String,
    /// Why it is not drawn.
    pub problem: Option<String>,
}

#[derive(Debug, Clone)]
pub struct DiscoveredColumn {
    /// Its relation, as a person would write it.
    pub table: String,
    pub kind: String,
    pub column: String,
    /// The types of its geometries.
    pub shape: String,
    pub srid: String,
    /// The rows; `None` if they cannot be read.
    pub rows: Option<u64>,
    /// True if the number of rows is an estimate.
    pub is_estimate: bool,
    /// The box around them in degrees, if it is known.
    pub extent: Option<LonLatBox>,
    /// The columns that identify a row; with a question mark if no constraint enforces that.
    pub key: Option<String>,
    /// True if the column has a spatial index; `None` if it cannot have one.
    pub is_indexed: Option<bool>,
    /// True if the role may read the column.
    pub may_read: bool,
    /// Why it is not drawn.
    pub problem: Option<String>,
}

impl DiscoveredColumn {
    fn cells(&self) -> [String; 9] {
        let rows = self.rows.map(|rows| format!("{}{}", if self.is_estimate { "~" } else { "" }, grouped(rows)));
        let degrees = |extent: LonLatBox| extent.sides().map(|side| format!("{side:.2}")).join(",");
        let index = match self.is_indexed {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        let unknown = || "-".to_owned();
        [
            visible_line(&self.table),
            self.kind.clone(),
            visible_line(&self.column),
            self.shape.clone(),
            self.srid.clone(),
            rows.unwrap_or_else(unknown),
            self.extent.map_or_else(unknown, degrees),
            self.key.as_deref().map_or_else(unknown, visible_line),
            format!("{index}{}", if self.may_read { "" } else { ", no right to read" }),
        ]
    }
}

/// What was found as a table, followed by the remarks and the columns and functions that are not drawn.
pub fn render_discovered(found: &DiscoveredTables) -> String {
    let header = ["table", "kind", "column", "type", "SRID", "rows", "extent", "key", "index"];
    let rows: Vec<Vec<String>> = found.columns.iter().map(|column| column.cells().to_vec()).collect();
    let mut text = table_of(&header, &rows, |_column| false);
    for remark in &found.remarks {
        text.push_str(&format!("note: {}\n", visible_line(remark)));
    }
    text + &render_undrawn(found)
}

/// The columns and functions that are not drawn, a line each.
pub fn render_undrawn(found: &DiscoveredTables) -> String {
    let line = |column: &DiscoveredColumn| {
        let problem = column.problem.as_ref()?;
        Some(format!(
            "not drawn: {} of {}: {}\n",
            visible_line(&column.column),
            visible_line(&column.table),
            visible_line(problem)
        ))
    };
    let function = |function: &DiscoveredFunction| {
        let problem = function.problem.as_ref()?;
        Some(format!("not drawn: function {}: {}\n", visible_line(&function.name), visible_line(problem)))
    };
    found.columns.iter().filter_map(line).chain(found.functions.iter().filter_map(function)).collect()
}

/// A line about the file that was written, and the next commands, as a shell reads them. `has_url` is true if a flag
/// gave the database's address, which is not repeated because it may hold a password.
pub fn render_drafted(found: &DiscoveredTables, file: &str, has_url: bool) -> String {
    let layers = counted(found.layers as u64, "layer");
    let (next, url) = if has_url { (", with the same URL", " --database-url URL") } else { ("", "") };
    let [word, output] = [file, &found.output].map(|name| visible_line(&for_shell(name)));
    // Commands in this folder read the file without being told.
    let (config, target) = if file == OWN_FILE {
        (String::new(), String::new())
    } else {
        (format!(" --config {word}"), format!(" {output}"))
    };
    let file = visible_line(file);
    format!("{file}: {layers}. Next{next}:\n  {SEED}{config}{url}\n  oar-tiles preview{target}\n")
}
