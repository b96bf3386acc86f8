//! A configuration for the tables and functions that were discovered.

use std::collections::BTreeMap;

use super::is_named;
use super::layer::{DraftZooms, LayerDraft, LayerSize, REPAIR, Reference, last_zoom, reference};
use super::text::{comment, commented, string, value};
use crate::postgis::{Discovery, GeometryColumn, SpatialFunction};
use crate::target::is_own_name;
use crate::tile::LonLatBox;

/// The last zoom of tilesets that are rendered on request.
const LAST_LIVE_ZOOM: u8 = 22;

/// The last zoom of a seed of functions, unless another one is given: 87,381 calls if nothing says where their tiles
/// can be.
const LAST_ZOOM_OF_FUNCTIONS: u8 = 8;

/// The most layers of a tileset.
const MAX_LAYERS: usize = 255;

/// A configuration from which layers can still be removed.
#[derive(Debug)]
pub(crate) struct Draft {
    made_for: DraftFor,
    database: String,
    name: String,
    last_zoom: u8,
    pub(crate) parts: Vec<DraftPart>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DraftFor {
    /// A file with one tileset of everything, to be seeded.
    File,
    /// An immediate seed: the same tileset, with the functions that a pattern without `*` or `?` names.
    Seed,
    /// A server that renders tiles on request: a tileset for each column and each function.
    Catalogue,
}

/// A layer of a draft, or a column that no layer can draw.
#[derive(Debug)]
pub(crate) struct DraftPart {
    name: String,
    /// Its place among the layers.
    order: DrawingOrder,
    /// The box around its geometries in degrees.
    extent: Option<LonLatBox>,
    /// Why it is not drawn, and what to do; `None` if it is drawn.
    pub(crate) problem: Option<String>,
    pub(crate) remarks: Vec<String>,
    summary: String,
    body: String,
}

/// The order of layers: maps that draw them as the file lists them then have no point below a polygon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum DrawingOrder {
    Polygons,
    Lines,
    Points,
}

impl DrawingOrder {
    /// The order of a column: that of the lowest geometries in it.
    fn of(geometry: &GeometryColumn) -> DrawingOrder {
        let read = geometry.rows.as_ref().map(|rows| rows.shapes.join(" ")).unwrap_or_default();
        let types = if read.is_empty() { geometry.shape.to_ascii_uppercase() } else { read };
        if ["POLYGON", "SURFACE", "COLLECTION", "TIN", "TRIANGLE"].iter().any(|part| types.contains(part)) {
            DrawingOrder::Polygons
        } else if types.contains("POINT") && !["LINE", "CURVE", "CIRCULAR"].iter().any(|part| types.contains(part)) {
            DrawingOrder::Points
        } else {
            DrawingOrder::Lines
        }
    }
}

/// A file name that every system accepts; "tiles" if nothing of the text is left.
fn file_name(text: &str) -> String {
    let fitting = |c: char| if c.is_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    let name: String = text.chars().map(fitting).take(60).collect();
    if name.chars().any(char::is_alphanumeric) { name } else { "tiles".to_owned() }
}

/// A name for each column's layer: the name of its table, with the column and the schema if they are needed to
/// distinguish layers.
fn layer_names(discovery: &Discovery) -> BTreeMap<(usize, usize), String> {
    let (mut names, mut taken) = (BTreeMap::new(), Vec::new());
    let relations = &discovery.relations;
    for (number, found) in relations.iter().enumerate() {
        let relation = &found.relation;
        let is_alone = relations.iter().filter(|other| other.relation.name == relation.name).count() == 1;
        let table = if is_alone { relation.name.clone() } else { format!("{}_{}", relation.schema, relation.name) };
        for (place, geometry) in found.geometries.iter().enumerate() {
            let several = found.geometries.len() > 1;
            let mut name = if several { format!("{table}_{}", geometry.column) } else { table.clone() };
            if is_own_name(&name) {
                name = format!("layer_{name}");
            }
            let further = (2..).map(|number| format!("{name}_{number}"));
            let free = std::iter::once(name.clone()).chain(further).find(|name| !taken.contains(name));
            let name = free.unwrap_or(name);
            taken.push(name.clone());
            names.insert((number, place), name);
        }
    }
    names
}

/// Why a column cannot be drawn, beyond the reason that its rows gave.
fn denied(relation: &crate::postgis::SpatialRelation, geometry: &GeometryColumn, why: &str) -> String {
    use crate::postgis::quoted;
    let (table, role) = (relation.quoted(), quoted(&relation.role));
    if !relation.schema_usable {
        let schema = quoted(&relation.schema);
        return format!("{why}: GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {table} TO {role};");
    }
    if relation.column(&geometry.column).is_some_and(|column| !column.readable) {
        return format!("{why}: GRANT SELECT ON {table} TO {role};");
    }
    if !relation.is_populated {
        return format!("{why}: REFRESH MATERIALIZED VIEW {table};");
    }
    format!("it cannot be read: {why}")
}

impl Draft {
    /// A draft of what was found. `patterns` are the patterns of the search.
    pub(crate) fn new(discovery: &Discovery, made_for: DraftFor, patterns: &[String]) -> Draft {
        let names = layer_names(discovery);
        let rows = discovery.relations.iter().flat_map(|found| &found.geometries);
        let sizes: Vec<LayerSize<'_>> =
            rows.filter_map(|geometry| geometry.rows.as_ref().ok()).map(LayerSize::of).collect();
        let is_called = |function: &SpatialFunction| match made_for {
            DraftFor::File => false,
            DraftFor::Seed => is_named(patterns, &function.schema, &function.name),
            DraftFor::Catalogue => true,
        };
        let last_zoom = match made_for {
            DraftFor::Catalogue => LAST_LIVE_ZOOM,
            DraftFor::Seed if discovery.functions.iter().any(is_called) => {
                last_zoom(&sizes).min(LAST_ZOOM_OF_FUNCTIONS)
            }
            DraftFor::File | DraftFor::Seed => last_zoom(&sizes),
        };
        let mut parts = Vec::new();
        for (number, found) in discovery.relations.iter().enumerate() {
            for (place, geometry) in found.geometries.iter().enumerate() {
                let name = names.get(&(number, place)).cloned().unwrap_or_default();
                let extent = geometry.rows.as_ref().ok().and_then(|rows| rows.extent.as_ref()?.degrees);
                let mut part = DraftPart {
                    name: name.clone(),
                    order: DrawingOrder::of(geometry),
                    extent,
                    problem: None,
                    remarks: Vec::new(),
                    summary: String::new(),
                    body: String::new(),
                };
                let (read, zooms) = match &geometry.rows {
                    Ok(rows) if made_for == DraftFor::Catalogue => {
                        (reference(found, geometry, rows), DraftZooms::PLAIN)
                    }
                    Ok(rows) => (reference(found, geometry, rows), LayerSize::of(rows).zooms(last_zoom)),
                    Err(why) => {
                        let problem = denied(&found.relation, geometry, why);
                        (Err(problem), DraftZooms::PLAIN)
                    }
                };
                part.problem = read.as_ref().err().cloned();
                let reference = read.unwrap_or(Reference::Known);
                let layer = LayerDraft { name, found, geometry, reference, zooms, last_zoom };
                (part.summary, part.body) = (layer.summary(), layer.body());
                if part.problem.is_none() {
                    part.remarks = layer.remarks();
                }
                parts.push(part);
            }
        }
        parts.extend(functions(discovery, made_for, is_called, &parts));
        let most = if made_for == DraftFor::Catalogue { usize::MAX } else { MAX_LAYERS };
        for part in parts.iter_mut().filter(|part| part.problem.is_none()).skip(most) {
            part.problem = Some(format!("a tileset has at most {MAX_LAYERS} layers: choose some with --table"));
        }
        let name = match &discovery.relations[..] {
            [one] => one.relation.name.clone(),
            [] if discovery.functions.len() == 1 => discovery.functions[0].name.clone(),
            _ => discovery.database.clone(),
        };
        Draft { made_for, database: discovery.database.clone(), name, last_zoom, parts }
    }

    /// The number of layers that are drawn.
    pub(crate) fn layers(&self) -> usize {
        self.parts.iter().filter(|part| part.problem.is_none()).count()
    }

    /// The file for the tiles.
    pub(crate) fn output(&self) -> String {
        format!("{}.mbtiles", file_name(&self.name))
    }

    /// The numbers of the parts that are drawn, in the order of the configuration's layers.
    pub(crate) fn drawn(&self) -> Vec<usize> {
        self.in_order().into_iter().filter(|part| self.parts[*part].problem.is_none()).collect()
    }

    /// The numbers of all parts in the order in which they are written: polygons first, points last. Each tileset of a
    /// catalogue has one layer, so they stay as they were found.
    fn in_order(&self) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..self.parts.len()).collect();
        if self.made_for != DraftFor::Catalogue {
            numbers.sort_by_key(|part| self.parts[*part].order);
        }
        numbers
    }

    /// Has the layer of a part repair its shapes.
    pub(crate) fn repair(&mut self, part: usize) {
        let body = &mut self.parts[part].body;
        if !body.contains(REPAIR) {
            *body = body.replacen("\ngeometry = ", &format!("\n{REPAIR}geometry = "), 1);
        }
    }

    /// Adds a remark to a part, before all others: `ST_MakeValid` would make jumping geometries valid, but not correct.
    /// A layer that is drawn in several ways has the same remark in each of them.
    pub(crate) fn remark(&mut self, part: usize, text: String) {
        let remarks = &mut self.parts[part].remarks;
        if !remarks.contains(&text) {
            remarks.insert(0, text);
        }
    }

    /// Notes that a part cannot be drawn.
    pub(crate) fn refuse(&mut self, part: usize, why: &str) {
        let part = &mut self.parts[part];
        part.problem.get_or_insert_with(|| why.to_owned());
        part.remarks.clear();
    }

    /// The configuration. Layers with a problem are written as comments.
    pub(crate) fn text(&self) -> String {
        if self.made_for == DraftFor::Catalogue {
            return self.catalogue();
        }
        let mut text = comment(&format!(
            "Written by oar-tiles init for the database {}. The manual describes every key; without a key its default holds.",
            string(&self.database)
        ));
        text.push_str(
            "# The database itself comes from --database-url, DATABASE_URL or the PG* variables, or stands here:\n",
        );
        text.push_str("# [database]\n# url = \"postgresql://${DB_USER}:${DB_PASSWORD}@db.example.org/gis\"\n\n");
        text.push_str(&format!("[tileset]\nname = {}\nzoom = \"0-{}\"\n", value(&self.name), self.last_zoom));
        text.push_str(&format!("output = {}\n", value(&self.output())));
        for part in self.in_order().into_iter().map(|number| &self.parts[number]) {
            text.push('\n');
            text.push_str(&comment(&part.summary));
            for remark in &part.remarks {
                text.push_str(&comment(&format!("Note: {remark}")));
            }
            match &part.problem {
                Some(problem) => {
                    text.push_str(&comment(&format!("Not drawn: {problem}")));
                    text.push_str(&commented(&part.body));
                }
                None => text.push_str(&part.body),
            }
        }
        text
    }

    /// The configuration with a tileset for each part.
    fn catalogue(&self) -> String {
        let (mut text, mut taken) = (String::new(), Vec::new());
        for part in self.parts.iter().filter(|part| part.problem.is_none()) {
            let wanted = file_name(&part.name);
            let name = free_name(&wanted, &taken);
            text.push_str(&format!("[[tileset]]\nname = {}\nlayers = [{}]\n", value(&name), value(&part.name)));
            text.push_str(&format!(
                "zoom = \"0-{}\"\noutput = {}\n",
                self.last_zoom,
                value(&format!("{name}.mbtiles"))
            ));
            if let Some(extent) = part.extent.filter(|extent| extent.west < extent.east && extent.south < extent.north)
            {
                text.push_str(&format!("bbox = [\"{extent}\"]\n"));
            }
            text.push_str(&part.body);
            text.push('\n');
            taken.push(name);
        }
        text
    }
}

/// A name that is not taken: `wanted`, or `wanted` with a number.
fn free_name(wanted: &str, taken: &[String]) -> String {
    let further = (2..).map(|number| format!("{wanted}_{number}"));
    let free = std::iter::once(wanted.to_owned()).chain(further).find(|name| !taken.contains(name));
    free.unwrap_or_else(|| wanted.to_owned())
}

/// The layers of functions, in addition to those of columns.
fn functions(
    discovery: &Discovery,
    made_for: DraftFor,
    is_called: impl Fn(&SpatialFunction) -> bool,
    columns: &[DraftPart],
) -> Vec<DraftPart> {
    let mut taken: Vec<String> = columns.iter().map(|part| part.name.clone()).collect();
    let part = |function: &SpatialFunction| {
        let wanted =
            if is_own_name(&function.name) { format!("layer_{}", function.name) } else { function.name.clone() };
        let name = free_name(&wanted, &taken);
        taken.push(name.clone());
        // A seed would call the function for every tile.
        let problem = (!is_called(function)).then(|| {
            let next = match made_for {
                DraftFor::Seed => format!("to draw it all the same, give --table {}", function.name),
                DraftFor::File | DraftFor::Catalogue => {
                    "remove the # before its lines, and write with occupied where its tiles can be".to_owned()
                }
            };
            format!("a seed calls it for every tile of its zooms: {next}")
        });
        DraftPart {
            body: format!("[[layer]]\nname = {}\nfunction = {}\n", value(&name), value(&function.signature())),
            name,
            order: DrawingOrder::Points,
            extent: None,
            problem,
            remarks: Vec::new(),
            summary: format!("{}: function", function.signature()),
        }
    };
    discovery.functions.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn files_have_names_that_every_system_takes() {
        for (name, file) in [("places", "places"), ("a/../b c", "a____b_c"), ("Größe", "Größe"), ("..", "tiles")] {
            assert_eq!(file_name(name), file);
        }
    }
}
