//! The layers of the tileset. A layer that is drawn in several ways, such as cells at some zooms or fewer properties,
//! becomes several layers with the same [`LayerId`], each for its own zooms.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use super::error::{ConfigError, nearest};
use super::file::{ConfigFile, LayerDefaults};
use super::settings::Check;
use super::values::Origin;
use crate::cells::{CellGeometry, CellGrid, CellShape};
use crate::postgis::{
    AggregateSection, Budget, Cells, ClusterSection, LayerKind, LayerOptions, LayerSection, Limit, OnLargeTile,
    Properties, Property, PropertySource, Query, ROW_NUMBER, RowCondition, RowZooms, Rows, Simplify, SimplifySection,
    TileFunction, TilePart,
};
use crate::target::is_own_name;
use crate::tile::{
    AreaPart, HALF_WORLD_METRES, LayerId, LonLatBox, Margin, TileBounds, Zoom, ZoomError, ZoomLimits, ZoomList,
    parts_of_area,
};

/// The most layers in one tile.
const MAX_LAYERS: usize = 255;

/// What a layer draws at some of its zooms.
#[derive(Debug, Clone, PartialEq)]
struct Band {
    properties: Option<Vec<Property>>,
    kind: LayerKind,
    filter: Option<String>,
    simplify: Option<Simplify>,
    /// Whether shapes are repaired before they are drawn.
    repair: bool,
}

impl Band {
    fn of_function(function: TileFunction) -> Band {
        let kind = LayerKind::Function(function);
        Band { properties: Some(Vec::new()), kind, filter: None, simplify: None, repair: false }
    }
}

impl Check<'_> {
    pub(crate) fn layers(&self, given: &ConfigFile, only: &[String]) -> Result<Vec<LayerOptions>, ConfigError> {
        let layers = &given.layer;
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(self.wrong("layer", format!("there are {} layers: write 1 to {MAX_LAYERS}", layers.len())));
        }
        let mut names: Vec<&str> = Vec::new();
        for layer in layers {
            if names.contains(&layer.name.as_str()) {
                return Err(
                    self.wrong("layer", format!("two layers are named \"{}\": give each its own name", layer.name))
                );
            }
            if is_own_name(&layer.name) {
                let what = format!(
                    "a layer is named \"{}\", as what the program keeps beside the tiles (.oar-tiles…, metadata.json, latest.json, tiles.json, ….tiles.json): give it another name",
                    layer.name
                );
                return Err(self.wrong("layer", what));
            }
            self.describes_properties(layer)?;
            names.push(&layer.name);
        }
        if let Some(wanted) = only.iter().find(|wanted| !names.contains(&wanted.as_str())) {
            let hint = nearest(wanted, names.iter().copied());
            let hint = hint.unwrap_or_else(|| format!(": there is {}", names.join(", ")));
            return Err(ConfigError::UnknownLayer { wanted: wanted.clone(), hint });
        }
        let mut settings = Vec::new();
        let chosen = layers.iter().filter(|layer| only.is_empty() || only.contains(&layer.name));
        for (number, layer) in (0..).zip(chosen) {
            settings.append(&mut self.layer(LayerId(number), layer, &given.layer_defaults)?);
        }
        Ok(settings)
    }

    /// The layers that one layer of the configuration becomes.
    fn layer(
        &self,
        id: LayerId,
        layer: &LayerSection,
        defaults: &LayerDefaults,
    ) -> Result<Vec<LayerOptions>, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let margin = self.margin(layer, defaults)?;
        let function = self.function(layer)?;
        let (rows, columns) = match &function {
            Some(_) => (self.occupied(layer)?, Self::occupied_key()),
            None => (self.rows(layer)?, layer.key.clone().unwrap_or_default()),
        };
        if let Some(twice) = first_repeated(columns.iter()) {
            return Err(self.wrong(&key("key"), format!("names the column \"{twice}\" twice: name each column once")));
        }
        let zooms = layer.zoom.as_ref().unwrap_or(&defaults.zoom).clone();
        let mut budget = self.budget(layer, defaults)?;
        if function.is_some() {
            budget = budget.of_whole_tiles();
        }
        let row_zooms = RowZooms { min: layer.min_zoom.clone(), max: layer.max_zoom.clone() };
        if layer.refresh() && matches!(rows, Rows::Query(_)) {
            let what = "is for a layer that names a materialized view with table: leave it out".to_owned();
            return Err(self.wrong(&key("refresh"), what));
        }
        let limit = fewest_features(layer, &zooms, &budget);
        let bands = match function {
            Some(function) => vec![(zooms, Band::of_function(function))],
            None => self.bands(layer, &zooms, limit, margin)?,
        };
        if bands.iter().all(|(_, band)| band.kind != LayerKind::Rows) {
            self.no_rank(layer)?;
        }
        let section = Arc::new(layer.clone());
        let bands = bands.into_iter().map(|(zooms, band)| LayerOptions {
            section: Arc::clone(&section),
            name: layer.name.clone(),
            id,
            rows: rows.clone(),
            key: columns.clone(),
            properties: band.properties,
            filter: band.filter,
            row_zooms: row_zooms.clone(),
            zooms,
            margin: Margin { moved: band.simplify.as_ref().map_or(0.0, Simplify::moved), ..margin },
            kind: band.kind,
            simplify: band.simplify,
            budget: budget.clone(),
            on_tile_error: layer.on_tile_error.unwrap_or(defaults.on_tile_error),
            beyond: layer.beyond.unwrap_or(defaults.beyond),
            repair: band.repair,
        });
        Ok(bands.collect())
    }

    /// Refuses descriptions of properties that the layer does not have.
    fn describes_properties(&self, layer: &LayerSection) -> Result<(), ConfigError> {
        // Only the database knows the columns of a table, and clusters have properties of their own.
        let own = layer.properties.as_ref().filter(|_| layer.aggregate.is_none() && layer.cluster.is_none());
        let Some(known) = own.map(Properties::names) else { return Ok(()) };
        let mut described = layer.property_descriptions.iter().flat_map(|texts| texts.keys());
        match described.find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(unknown) => {
                let key = format!("layer[{}].property_descriptions", layer.name);
                Err(self.wrong(&key, format!("describes \"{unknown}\", which is no property of the layer")))
            }
        }
    }

    /// The ways in which the layer is drawn, each with its zooms, ordered by the first zoom. Together they cover all
    /// zooms of the layer.
    fn bands(
        &self,
        layer: &LayerSection,
        zooms: &ZoomList,
        limit: Option<NonZeroU64>,
        margin: Margin,
    ) -> Result<Vec<(ZoomList, Band)>, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let own =
            layer.properties.as_ref().map(|properties| self.properties(&key("properties"), properties)).transpose()?;
        self.no_placeholders(layer, own.as_deref())?;
        let gathered = match (&layer.aggregate, &layer.cluster) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                let what = "stands beside [layer.aggregate]: a layer has one or the other".to_owned();
                return Err(self.wrong(&key("cluster"), what));
            }
            (Some(aggregate), None) => {
                let (cells, properties) = self.aggregate(&key("aggregate"), aggregate, limit)?;
                let within = aggregate.zoom.clone();
                Some((LayerKind::Cells(cells), properties, within))
            }
            (None, Some(cluster)) => {
                let (cells, properties) = self.cluster(&key("cluster"), cluster, own.as_deref(), limit)?;
                Some((LayerKind::Cells(cells), properties, cluster.zoom.clone()))
            }
        };
        if let Some(column) = layer.feature_id.as_ref().filter(|_| gathered.is_some()) {
            let what = format!("names the column \"{column}\", and a cell is no row: leave feature_id out");
            return Err(self.wrong(&key("feature_id"), what));
        }
        let property_zooms = self.property_zooms(&key("property_zooms"), layer, own.as_deref())?;
        let (conditions, simplify) = (self.conditions(layer)?, self.simplify(layer, margin)?);
        let mut bands: Vec<(Vec<Zoom>, Band)> = Vec::new();
        for zoom in zooms.iter() {
            let is_shown = |property: &&Property| {
                let list = property_zooms.iter().find(|(name, _)| *name == property.name);
                matches!(property.source, PropertySource::Aggregate(_))
                    || list.is_none_or(|(_, zooms)| zooms.contains(zoom))
            };
            let (kind, properties) = match &gathered {
                Some((kind, properties, within)) if within.as_ref().is_none_or(|within| within.contains(zoom)) => {
                    (kind.clone(), Some(properties))
                }
                _ => (LayerKind::Rows, own.as_ref()),
            };
            let properties = properties.map(|all| all.iter().filter(is_shown).cloned().collect());
            let simplify = simplify.at(zoom).filter(|_| kind == LayerKind::Rows);
            let repair = layer.repair == Some(true) && kind == LayerKind::Rows;
            let band = Band { properties, kind, filter: conditions.at(zoom), simplify, repair };
            match bands.iter_mut().find(|(_, other)| *other == band) {
                Some((zooms, _)) => zooms.push(zoom),
                None => bands.push((vec![zoom], band)),
            }
        }
        self.simplifies_some(layer, bands.iter().any(|(_, band)| band.simplify.is_some()))?;
        if layer.repair == Some(true) && !bands.iter().any(|(_, band)| band.repair) {
            let what = "does nothing: the layer draws no single rows at these zooms, and only lines and polygons are repaired. Leave it out";
            return Err(self.wrong(&key("repair"), what.to_owned()));
        }
        let plain = bands.iter().any(|(_, band)| band.kind == LayerKind::Rows);
        if layer.aggregate.is_some() && own.is_some() && !plain {
            let what = "are those of single rows, and the layer is aggregated at all its zooms: write them into [layer.aggregate], or give that a zoom of its own";
            return Err(self.wrong(&key("properties"), what.to_owned()));
        }
        Ok(bands.into_iter().filter_map(|(zooms, band)| Some((ZoomList::of(zooms)?, band))).collect())
    }

    /// Refuses placeholders (`!name!`) that have no value here.
    pub(crate) fn placeholders(&self, key: &str, sql: &str, known: &[&str]) -> Result<(), ConfigError> {
        match placeholders(sql).find(|name| !known.contains(name)) {
            Some(name) => {
                let known: Vec<String> = known.iter().map(|name| format!("!{name}!")).collect();
                let what = format!("!{name}! is no placeholder here: there is {}", known.join(", "));
                Err(self.wrong(key, what))
            }
            None => Ok(()),
        }
    }

    pub(crate) fn properties(&self, key: &str, properties: &Properties) -> Result<Vec<Property>, ConfigError> {
        let properties: Vec<Property> = match properties {
            Properties::Columns(names) => names
                .iter()
                .map(|name| Property { name: name.clone(), source: PropertySource::Column(name.clone()) })
                .collect(),
            Properties::Expressions(table) => table
                .iter()
                .map(|(name, sql)| match sql {
                    toml::Value::String(sql) => Ok(Property { name: name.clone(), source: expression(sql) }),
                    _ => Err(self
                        .wrong(key, format!("the value of \"{name}\" is no text: write an SQL expression in quotes"))),
                })
                .collect::<Result<_, _>>()?,
        };
        if let Some(twice) = first_repeated(properties.iter().map(|property| &property.name)) {
            return Err(self.wrong(key, format!("names \"{twice}\" twice: name each property once")));
        }
        // PostgreSQL truncates longer names, so two might become the same.
        if let Some(long) = properties.iter().find(|property| property.name.len() > 63) {
            return Err(self.wrong(key, format!("the name \"{}\" is longer than 63 bytes: shorten it", long.name)));
        }
        Ok(properties)
    }
}

/// The address of the tile, or SQL.
fn expression(sql: &str) -> PropertySource {
    match sql.trim() {
        "!x!" => PropertySource::Tile(TilePart::X),
        "!y!" => PropertySource::Tile(TilePart::Y),
        "!zoom!" => PropertySource::Tile(TilePart::Zoom),
        _ => PropertySource::Expression(sql.to_owned()),
    }
}

/// The names between exclamation marks.
fn placeholders(sql: &str) -> impl Iterator<Item = &str> {
    let is_name = |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    // The first and the last part are outside of the marks.
    let parts: Vec<&str> = sql.split('!').collect();
    let inner = parts.len().saturating_sub(2);
    parts.into_iter().skip(1).take(inner).filter(is_name)
}

pub(crate) fn first_repeated<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

// The area of a tileset: a box, or the polygons of a GeoJSON file.

/// The parts of an area. An area with very many positions becomes boxes, exact down to `deepest` or to the zoom at
/// which there would be too many.
///
/// # Errors
/// If the text is neither a box nor a file with polygons; the message says why, and what to write.
pub fn area_parts(text: &str, deepest: Zoom) -> Result<Vec<AreaPart>, String> {
    let path = Path::new(text);
    if !path.exists() {
        let one: LonLatBox = text.parse().map_err(|error| format!("there is no such file, and as a box: {error}"))?;
        return Ok(vec![one.into()]);
    }
    let read = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let json: serde_json::Value = serde_json::from_str(&read).map_err(|error| error.to_string())?;
    let parts = parts_of_area(&json, deepest);
    if parts.is_empty() {
        return Err("it holds no geometry with an extent: write a GeoJSON with polygons (RFC 7946)".to_owned());
    }
    Ok(parts)
}

impl Check<'_> {
    /// The part of the world that the tileset covers: its area, if it has one, else its boxes.
    pub(crate) fn boxes(
        &self,
        bbox: Vec<LonLatBox>,
        area: Option<&String>,
        zooms: &ZoomList,
    ) -> Result<Vec<AreaPart>, ConfigError> {
        let boxes = |boxes: Vec<LonLatBox>| boxes.into_iter().map(AreaPart::from).collect();
        let Some(area) = area else { return Ok(boxes(bbox)) };
        let strength = |key: &str| match self.origin(key) {
            Some(Origin::Flag(_)) => 3,
            Some(Origin::Environment(_)) => 2,
            Some(Origin::File(_) | Origin::Draft) => 1,
            Some(Origin::Default) | None => 0,
        };
        let (of_boxes, of_area) = (strength("tileset.bbox"), strength("tileset.area"));
        if !bbox.is_empty() && of_boxes == of_area {
            return Err(self.wrong("tileset.area", "is given beside bbox: one of them is enough".to_owned()));
        }
        if of_boxes > of_area {
            return Ok(boxes(bbox));
        }
        area_parts(area, zooms.max()).map_err(|what| self.wrong("tileset.area", format!("{area:?}: {what}")))
    }
}

// The budget of a layer: how many features and bytes it may have in a tile, and what happens to tiles that exceed the
// budget or cannot be rendered.

impl Check<'_> {
    /// A layer's budget.
    pub(crate) fn budget(&self, layer: &LayerSection, defaults: &LayerDefaults) -> Result<Budget, ConfigError> {
        let limits = |field: &str, own: Option<&Limit>, default: &Limit| match own {
            Some(own) => self.limits(&format!("layer[{}].{field}", layer.name), own),
            None => self.limits(&format!("layer_defaults.{field}"), default),
        };
        let on_large_tile = layer.on_large_tile.unwrap_or(defaults.on_large_tile);
        if layer.rank.is_some() && on_large_tile != OnLargeTile::Thin {
            let what = "does nothing, for no feature is left out: write on_large_tile = \"thin\" beside it".to_owned();
            return Err(self.wrong(&format!("layer[{}].rank", layer.name), what));
        }
        Ok(Budget {
            features: limits("max_tile_features", layer.max_tile_features.as_ref(), &defaults.max_tile_features)?,
            bytes: limits("max_tile_bytes", layer.max_tile_bytes.as_ref(), &defaults.max_tile_bytes)?,
            on_large_tile,
            rank: layer.rank.clone(),
        })
    }

    /// Refuses a rank of rows in a layer that draws only cells.
    pub(crate) fn no_rank(&self, layer: &LayerSection) -> Result<(), ConfigError> {
        if layer.rank.is_none() {
            return Ok(());
        }
        let what = "ranks single rows, and the layer is put together in cells at all its zooms, of which those with the most rows stay: leave it out";
        Err(self.wrong(&format!("layer[{}].rank", layer.name), what.to_owned()))
    }

    fn limits(&self, key: &str, given: &Limit) -> Result<ZoomLimits, ConfigError> {
        let table = match given {
            Limit::All(limit) => return Ok(ZoomLimits::everywhere(NonZeroU64::new(*limit))),
            Limit::ByZoom(table) => table,
        };
        let values = ZoomValues { misfit: "no number: write how many, or 0 for no limit", noun: "limit" };
        let number = |value: &toml::Value| value.as_integer().and_then(|limit| u64::try_from(limit).ok());
        let mut limits = ZoomLimits::default();
        for ZoomValue { zooms, value } in self.by_zoom(key, table, number, &values)? {
            limits.set(&zooms, NonZeroU64::new(value));
        }
        Ok(limits)
    }
}

/// The smallest `max_tile_features` at zooms where the layer is drawn as cells; `None` if there is none.
pub(crate) fn fewest_features(layer: &LayerSection, zooms: &ZoomList, budget: &Budget) -> Option<NonZeroU64> {
    if budget.thins() {
        return None;
    }
    let within = match (&layer.aggregate, &layer.cluster) {
        (Some(aggregate), _) => aggregate.zoom.as_ref(),
        (None, Some(cluster)) => cluster.zoom.as_ref(),
        (None, None) => None,
    };
    let in_cells = zooms.iter().filter(|zoom| within.is_none_or(|within| within.contains(*zoom)));
    in_cells.filter_map(|zoom| budget.features.at(zoom)).min()
}

// Values that differ by zoom: tables whose keys are lists of zooms.

/// Words for the values of a table by zoom, for messages.
pub(crate) struct ZoomValues {
    /// The message for a value of another type: what is wrong, and what to write.
    pub(crate) misfit: &'static str,
    pub(crate) noun: &'static str,
}

/// A value, and the zooms at which it applies.
pub(crate) struct ZoomValue<T> {
    pub(crate) zooms: ZoomList,
    pub(crate) value: T,
}

/// The condition of a layer's rows at each of its zooms.
pub(crate) struct Conditions<'a> {
    everywhere: Option<&'a str>,
    by_zoom: Vec<ZoomValue<&'a str>>,
}

impl Conditions<'_> {
    pub(crate) fn at(&self, zoom: Zoom) -> Option<String> {
        let own = self.by_zoom.iter().find(|own| own.zooms.contains(zoom)).map(|own| own.value);
        own.or(self.everywhere).map(str::to_owned)
    }
}

impl RowCondition {
    /// The SQL conditions of all zooms.
    pub(crate) fn texts(&self) -> Vec<&str> {
        match self {
            RowCondition::All(sql) => vec![sql],
            RowCondition::ByZoom(table) => table.values().filter_map(toml::Value::as_str).collect(),
        }
    }
}

impl Check<'_> {
    /// The entries of a table by zoom. Each zoom may be in one of them only.
    pub(crate) fn by_zoom<'t, T>(
        &self,
        key: &str,
        table: &'t toml::Table,
        value: impl Fn(&'t toml::Value) -> Option<T>,
        values: &ZoomValues,
    ) -> Result<Vec<ZoomValue<T>>, ConfigError> {
        let mut found: Vec<ZoomValue<T>> = Vec::new();
        for (text, given) in table {
            let zooms: ZoomList =
                text.parse().map_err(|error: ZoomError| self.wrong(key, format!("\"{text}\": {error}")))?;
            let Some(value) = value(given) else {
                return Err(self.wrong(key, format!("\"{text}\": its value is {}", values.misfit)));
            };
            if let Some(twice) = zooms.iter().find(|zoom| found.iter().any(|other| other.zooms.contains(*zoom))) {
                return Err(self.wrong(key, format!("names zoom {twice} twice: give each zoom one {}", values.noun)));
            }
            found.push(ZoomValue { zooms, value });
        }
        Ok(found)
    }

    /// The layer's conditions.
    pub(crate) fn conditions<'t>(&self, layer: &'t LayerSection) -> Result<Conditions<'t>, ConfigError> {
        let (everywhere, table) = match &layer.filter {
            None => (None, None),
            Some(RowCondition::All(sql)) => (Some(sql.as_str()), None),
            Some(RowCondition::ByZoom(table)) => (None, Some(table)),
        };
        let values = ZoomValues { misfit: "no text: write an SQL condition in quotes", noun: "condition" };
        let key = format!("layer[{}].where", layer.name);
        let by_zoom = table.map(|table| self.by_zoom(&key, table, toml::Value::as_str, &values)).transpose()?;
        Ok(Conditions { everywhere, by_zoom: by_zoom.unwrap_or_default() })
    }

    /// The zooms of properties that are drawn only at some zooms of the layer.
    pub(crate) fn property_zooms(
        &self,
        key: &str,
        layer: &LayerSection,
        own: Option<&[Property]>,
    ) -> Result<Vec<(String, ZoomList)>, ConfigError> {
        let Some(table) = &layer.property_zooms else { return Ok(Vec::new()) };
        let Some(own) = own else {
            return Err(self.wrong(key, "needs properties: name those of the layer, too".to_owned()));
        };
        let mut found = Vec::new();
        for (name, zooms) in table {
            if !own.iter().any(|property| property.name == *name) {
                let hint = nearest(name, own.iter().map(|property| property.name.as_str())).unwrap_or_default();
                return Err(self.wrong(key, format!("names \"{name}\", which is none of the layer's properties{hint}")));
            }
            let text = match zooms {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                _ => return Err(self.wrong(key, format!("the value of \"{name}\" is no zoom list: write \"10-22\""))),
            };
            found.push((name.clone(), text.parse().map_err(|error| self.wrong(key, format!("\"{name}\": {error}")))?));
        }
        Ok(found)
    }
}

// The checks of layers that draw cells and clusters.

/// The properties of a cluster, with the names that map clients use: those of Supercluster, which MapLibre uses.
const CLUSTER: [(&str, &str); 4] = [
    ("cluster", "true"),
    ("cluster_id", "!cell!"),
    ("point_count", "count(*)"),
    (
        "point_count_abbreviated",
        "CASE WHEN count(*) >= 10000 THEN round(count(*) / 1000.0)::text || 'k'
              WHEN count(*) >= 1000 THEN trim_scale(round(count(*) / 1000.0, 1))::text || 'k'
              ELSE count(*)::text END",
    ),
];

/// The default width of a cluster's cell: 64 of the 512 pixels with which map clients draw a tile.
const CLUSTER_SIZE: f64 = 1.0 / 8.0;

/// The placeholders of an aggregate: the bounds of its cell, and the cell's number.
const CELL: [&str; 5] = ["xmin", "ymin", "xmax", "ymax", "cell"];

impl Check<'_> {
    /// The cells of an aggregate layer, and their properties.
    pub(crate) fn aggregate(
        &self,
        key: &str,
        aggregate: &AggregateSection,
        limit: Option<NonZeroU64>,
    ) -> Result<(Cells, Vec<Property>), ConfigError> {
        let grid = CellGrid { shape: aggregate.cell, size: aggregate.size.0, geometry: aggregate.draw, merges: false };
        self.size(&format!("{key}.size"), &grid, limit)?;
        let having = aggregate.having.clone();
        if let Some(having) = &having {
            self.placeholders(&format!("{key}.having"), having, &CELL)?;
        }
        let properties = self.aggregates(&format!("{key}.properties"), &aggregate.properties)?;
        Ok((Cells { grid, having, keeps_lone: false }, properties))
    }

    /// Cells that are drawn as clusters, and rows that are alone in their cell.
    pub(crate) fn cluster(
        &self,
        key: &str,
        cluster: &ClusterSection,
        own: Option<&[Property]>,
        limit: Option<NonZeroU64>,
    ) -> Result<(Cells, Vec<Property>), ConfigError> {
        let Some(own) = own else {
            let what = "needs the layer's properties: those that a facility alone in its cell is drawn with".to_owned();
            return Err(self.wrong(key, what));
        };
        let size = cluster.size.map_or(CLUSTER_SIZE, |size| size.0);
        let shape = cluster.cell.unwrap_or_default();
        let merges = cluster.merge.unwrap_or(false);
        let grid = CellGrid { shape, size, geometry: CellGeometry::Centroid, merges };
        self.size(&format!("{key}.size"), &grid, limit)?;
        let aggregate = |(name, sql): (&str, &str)| Property {
            name: name.to_owned(),
            source: PropertySource::Aggregate(sql.to_owned()),
        };
        let mut properties: Vec<Property> = CLUSTER.into_iter().map(aggregate).collect();
        if let Some(further) = &cluster.properties {
            properties.append(&mut self.aggregates(&format!("{key}.properties"), further)?);
        }
        properties.extend_from_slice(own);
        if let Some(twice) = first_repeated(properties.iter().map(|property| &property.name)) {
            let what =
                format!("\"{twice}\" is a property of clusters and of single rows: give one of them another name");
            return Err(self.wrong(key, what));
        }
        Ok((Cells { grid, having: None, keeps_lone: true }, properties))
    }

    /// Checks the width of cells, and that a tile does not get more cells than it may have features.
    fn size(&self, key: &str, grid: &CellGrid, limit: Option<NonZeroU64>) -> Result<(), ConfigError> {
        let size = grid.size;
        if !(CellGrid::SMALLEST..=1.0).contains(&size) {
            let what = format!("{size} of a tile is out of range: write 1/128 to 1, such as \"1/8\"");
            return Err(self.wrong(key, what));
        }
        if grid.shape == CellShape::Square && size.log2().fract() != 0.0 {
            let what = format!(
                "{size} of a tile is no power of two, and squares must nest in tiles: write 1, \"1/2\", \"1/4\", … \"1/128\""
            );
            return Err(self.wrong(key, what));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most 128 squared, and a little"
        )]
        let cells = match grid.shape {
            CellShape::Square => 1.0 / (size * size),
            CellShape::Hexagon => 2.0 / (3.0_f64.sqrt() * size * size),
        }
        .ceil() as u64;
        match limit.filter(|limit| cells > limit.get()) {
            Some(limit) => {
                let what = format!(
                    "cells of {size} of a tile are too small: a tile may hold {cells} of them, and max_tile_features is {limit}. Write a greater fraction, or raise max_tile_features"
                );
                Err(self.wrong(key, what))
            }
            None => Ok(()),
        }
    }

    fn aggregates(&self, key: &str, table: &toml::Table) -> Result<Vec<Property>, ConfigError> {
        let mut properties = self.properties(key, &Properties::Expressions(table.clone()))?;
        for property in &mut properties {
            if let PropertySource::Expression(sql) = &property.source {
                self.placeholders(key, sql, &CELL)?;
                property.source = PropertySource::Aggregate(sql.clone());
            }
        }
        Ok(properties)
    }
}

// Layers whose whole tiles come from a function of the database.

impl Check<'_> {
    /// The layer's function, if it has one.
    pub(crate) fn function(&self, layer: &LayerSection) -> Result<Option<TileFunction>, ConfigError> {
        let key = |field: &str| format!("layer[{}].{field}", layer.name);
        let Some(name) = &layer.function else {
            let beside = [("query", layer.query.is_some()), ("occupied", layer.occupied.is_some())];
            return match beside.into_iter().find(|(_, is_set)| *is_set) {
                None => Ok(None),
                Some((field, _)) => {
                    let what =
                        "belongs to function, and there is none: write function = \"schema.name\", or leave it out";
                    Err(self.wrong(&key(field), what.to_owned()))
                }
            };
        };
        if name.trim().is_empty() {
            return Err(self.wrong(&key("function"), "is empty: write \"schema.name\"".to_owned()));
        }
        let of_rows = [
            ("table", layer.table.is_some()),
            ("schema", layer.schema.is_some()),
            ("sql", layer.sql.is_some()),
            ("key", layer.key.is_some()),
            ("properties", layer.properties.is_some()),
            ("property_zooms", layer.property_zooms.is_some()),
            ("feature_id", layer.feature_id.is_some()),
            ("where", layer.filter.is_some()),
            ("min_zoom", layer.min_zoom.is_some()),
            ("max_zoom", layer.max_zoom.is_some()),
            ("aggregate", layer.aggregate.is_some()),
            ("cluster", layer.cluster.is_some()),
            ("simplify", layer.simplify.is_some()),
            ("repair", layer.repair == Some(true)),
            ("rank", layer.rank.is_some()),
            ("candidates", layer.candidates.is_some()),
            ("max_tile_features", layer.max_tile_features.is_some()),
        ];
        if let Some((field, _)) = of_rows.into_iter().find(|(_, is_set)| *is_set) {
            let what =
                "stands beside function, which gives whole tiles: it has no meaning there; leave it out".to_owned();
            return Err(self.wrong(&key(field), what));
        }
        if layer.on_large_tile == Some(OnLargeTile::Thin) {
            let what = "is \"thin\" beside function, whose tiles are stored as they are: write \"warn\" or \"fail\""
                .to_owned();
            return Err(self.wrong(&key("on_large_tile"), what));
        }
        let query = layer.query.as_ref().map(|query| json_of(&toml::Value::Table(query.clone())).to_string());
        Ok(Some(TileFunction { name: name.clone(), query, is_bounded: layer.occupied.is_some() }))
    }

    /// The rows of such a layer. They tell where tiles may be.
    pub(crate) fn occupied(&self, layer: &LayerSection) -> Result<Rows, ConfigError> {
        let key = format!("layer[{}].occupied", layer.name);
        let world = format!(
            "SELECT ST_MakeEnvelope(-{HALF_WORLD_METRES:?}, -{HALF_WORLD_METRES:?}, {HALF_WORLD_METRES:?}, {HALF_WORLD_METRES:?}, 3857) AS world"
        );
        let text = layer.occupied.as_ref().unwrap_or(&world);
        let query = Query::new(text).map_err(|error| self.wrong(&key, error.to_string()))?;
        if query.asks_box() {
            let what = "has !bbox!, and is read once, before there are tiles: leave the condition out".to_owned();
            return Err(self.wrong(&key, what));
        }
        Ok(Rows::Query(query.numbered()))
    }

    /// The key of these rows.
    pub(crate) fn occupied_key() -> Vec<String> {
        vec![ROW_NUMBER.to_owned()]
    }
}

/// A value as JSON. Dates and times become texts.
fn json_of(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.iter().map(json_of).collect(),
        toml::Value::Table(table) => {
            table.iter().map(|(name, value)| (name.clone(), json_of(value))).collect::<serde_json::Map<_, _>>().into()
        }
    }
}

// The grid of a layer's tiles, and how far beyond them it is drawn.

impl Check<'_> {
    pub(crate) fn margin(&self, layer: &LayerSection, defaults: &LayerDefaults) -> Result<Margin, ConfigError> {
        let field = |field: &str, own: bool| {
            if own { format!("layer[{}].{field}", layer.name) } else { format!("layer_defaults.{field}") }
        };
        let extent = layer.extent.unwrap_or(defaults.extent);
        let extent = self.within(&field("extent", layer.extent.is_some()), extent, 256..=65_536)?;
        let buffer = layer.buffer.unwrap_or(defaults.buffer);
        let buffer = self.within(&field("buffer", layer.buffer.is_some()), buffer, 0..=2 * extent)?;
        let bounds = layer.tile_bounds.unwrap_or(defaults.tile_bounds);
        let are_polygons = layer.aggregate.as_ref().is_some_and(|aggregate| aggregate.draw == CellGeometry::Polygon);
        if bounds == TileBounds::Degrees && are_polygons {
            let what = "\"degrees\" is for points, lines and polygons of a table, and for cells that stand as points: set draw = \"center\", or tile_bounds = \"mercator\"";
            return Err(self.wrong(&field("tile_bounds", layer.tile_bounds.is_some()), what.to_owned()));
        }
        let candidates = layer.candidates.map(|fraction| fraction.0);
        if let Some(fraction) = candidates.filter(|fraction| !(*fraction > 0.0 && *fraction <= 2.0)) {
            let what = format!(
                "{fraction} of a tile is out of range: write more than 0 and at most 2, such as 0.2. For no features beyond the tile's edges write buffer = 0"
            );
            return Err(self.wrong(&field("candidates", true), what));
        }
        Ok(Margin { extent, buffer, bounds, candidates, moved: 0.0 })
    }
}

// The source of a layer's rows: a table or a query.

impl Check<'_> {
    /// The source of the layer's rows.
    pub(crate) fn rows(&self, layer: &LayerSection) -> Result<Rows, ConfigError> {
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

// How lines and polygons are simplified, and at which zooms.

/// The most pixels of a length: the side of a tile.
const MAX_PIXELS: f64 = 256.0;

/// How a layer is simplified, and at which zooms.
pub(crate) struct SimplifiedZooms {
    simplify: Option<Simplify>,
    zooms: Option<ZoomList>,
}

impl SimplifiedZooms {
    /// How the layer is simplified at a zoom.
    pub(crate) fn at(&self, zoom: Zoom) -> Option<Simplify> {
        self.simplify.clone().filter(|_| self.zooms.as_ref().is_none_or(|zooms| zooms.contains(zoom)))
    }
}

impl Check<'_> {
    /// How the layer's lines and polygons are simplified.
    pub(crate) fn simplify(&self, layer: &LayerSection, margin: Margin) -> Result<SimplifiedZooms, ConfigError> {
        let Some(section) = &layer.simplify else { return Ok(SimplifiedZooms { simplify: None, zooms: None }) };
        let SimplifySection { tolerance, snap, min_area, min_length, zoom } = section;
        let key = format!("layer[{}].simplify", layer.name);
        for (name, value, most) in [
            ("tolerance", tolerance, MAX_PIXELS),
            ("snap", snap, MAX_PIXELS),
            ("min_area", min_area, MAX_PIXELS * MAX_PIXELS),
            ("min_length", min_length, MAX_PIXELS),
        ] {
            if let Some(value) = value.filter(|value| !(*value > 0.0 && *value <= most)) {
                let unit = if name == "min_area" { "square pixels" } else { "pixels" };
                let what =
                    format!("{value} {unit} are out of range: write more than 0 and at most {most}, such as 0.5");
                return Err(self.wrong(&format!("{key}.{name}"), what));
            }
        }
        if [tolerance, snap, min_area, min_length].iter().all(|value| value.is_none()) {
            let what = "says nothing to do: write tolerance = 0.5, snap, min_area or min_length".to_owned();
            return Err(self.wrong(&key, what));
        }
        let others = [
            ("tile_bounds = \"degrees\"", margin.bounds == TileBounds::Degrees),
            ("candidates", margin.candidates.is_some()),
        ];
        if let Some((other, _)) = others.iter().find(|(_, is_given)| *is_given) {
            let what = format!("stands beside {other}, and only whole tiles in metres are simplified: leave one out");
            return Err(self.wrong(&key, what));
        }
        let simplify = Simplify { tolerance: *tolerance, snap: *snap, min_area: *min_area, min_length: *min_length };
        Ok(SimplifiedZooms { simplify: Some(simplify), zooms: zoom.clone() })
    }

    /// Refuses to simplify a layer that does not draw single rows at any of the zooms.
    pub(crate) fn simplifies_some(&self, layer: &LayerSection, is_simplified: bool) -> Result<(), ConfigError> {
        if layer.simplify.is_none() || is_simplified {
            return Ok(());
        }
        let what = "does nothing: the layer draws no single rows at these zooms. Give it other zooms, or leave it out";
        Err(self.wrong(&format!("layer[{}].simplify", layer.name), what.to_owned()))
    }
}
