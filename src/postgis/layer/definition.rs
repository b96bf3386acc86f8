//! The text behind the fingerprint: everything in a layer's configuration that decides its bytes in a tile.
//!
//! Every target holds a hash of this text. It is written out by hand, in the form of the first version, so that renaming a type or a field cannot
//! change it. With another text, every target would have to be seeded again.

use super::{
    Beyond, BoundProperty, Budget, CalledFunction, Cells, ComputedFrom, KeyColumn, Layer, RowZooms, Simplify, TilePart,
};
use crate::cells::{CellGeometry, CellGrid, CellShape};
use crate::tile::{Margin, TileBounds, Zoom};

impl Layer {
    /// Everything that decides the layer's bytes in a tile, in one text. The kind of the layer's geometries (`Shape`) is left out: it follows from
    /// the rows of the column and changes with them, but does not affect any byte.
    #[must_use]
    pub fn definition(&self) -> String {
        let zooms: Vec<u8> = self.zooms.iter().map(Zoom::get).collect();
        format!(
            "(({:?}, {:?}, {:?}, {}, {}, {}), ({:?}, {:?}, {zooms:?}, {}, {}, {}))",
            self.name,
            self.relation,
            self.geometry,
            self.shape.geography,
            list(&self.key, KeyColumn::definition),
            list(&self.properties, BoundProperty::definition),
            self.feature_id,
            self.filter,
            margin(self.margin),
            self.cells().map_or_else(|| "None".to_owned(), Cells::definition),
            self.beyond.definition(),
        ) + &self.budget.definition(self.zooms.iter())
            + &self.row_zooms.definition()
            + &self.simplify.as_ref().map_or_else(String::new, Simplify::definition)
            + &self.function.as_ref().map_or_else(String::new, CalledFunction::definition)
    }
}

fn list<T>(items: &[T], definition: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(definition).collect::<Vec<_>>().join(", "))
}

impl KeyColumn {
    fn definition(&self) -> String {
        let KeyColumn { quoted, collated } = self;
        format!("KeyColumn {{ quoted: {quoted:?}, collated: {collated} }}")
    }
}

impl BoundProperty {
    fn definition(&self) -> String {
        let BoundProperty { name, of, sql, kind } = self;
        let of = match of {
            ComputedFrom::Row => "Row",
            ComputedFrom::Cell => "Cell",
            ComputedFrom::Tile(TilePart::X) => "Tile(X)",
            ComputedFrom::Tile(TilePart::Y) => "Tile(Y)",
            ComputedFrom::Tile(TilePart::Zoom) => "Tile(Zoom)",
        };
        format!("BoundProperty {{ name: {name:?}, of: {of}, sql: {sql:?}, kind: {kind:?} }}")
    }
}

fn margin(margin: Margin) -> String {
    // `moved` follows from how the layer is simplified.
    let Margin { extent, buffer, bounds, candidates, moved: _ } = margin;
    let bounds = match bounds {
        TileBounds::Mercator => "Mercator",
        TileBounds::Degrees => "Degrees",
    };
    format!("Margin {{ extent: {extent}, buffer: {buffer}, bounds: {bounds}, candidates: {candidates:?} }}")
}

impl Cells {
    fn definition(&self) -> String {
        let Cells { grid: CellGrid { shape, size, geometry, merges }, having, keeps_lone } = self;
        let shape = match shape {
            CellShape::Square => "Square",
            CellShape::Hexagon => "Hexagon",
        };
        let geometry = match geometry {
            CellGeometry::Center => "Center",
            CellGeometry::Centroid => "Centroid",
            CellGeometry::Polygon => "Polygon",
        };
        let merges = if *merges { ", merges" } else { "" };
        format!(
            "Some(Cells {{ grid: Grid {{ shape: {shape}, size: {size:?}, standing: {geometry}{merges} }}, having: {having:?}, keeps_lone: {keeps_lone} }})"
        )
    }
}

impl Beyond {
    fn definition(self) -> &'static str {
        match self {
            Beyond::Wrap => "Wrap",
            Beyond::Clip => "Clip",
            Beyond::Skip => "Skip",
        }
    }
}

impl RowZooms {
    /// Nothing if every row is drawn at every zoom.
    fn definition(&self) -> String {
        let RowZooms { min, max } = self;
        if *self == RowZooms::default() { String::new() } else { format!("rows from {min:?} to {max:?}") }
    }
}

impl Simplify {
    fn definition(&self) -> String {
        let Simplify { tolerance, snap, min_area, min_length } = self;
        format!("simplified by {tolerance:?}, snapped to {snap:?}, at least {min_area:?} or {min_length:?}")
    }
}

impl Budget {
    /// The part of the budget that decides bytes in tiles at `zooms`; empty unless features are left out.
    fn definition(&self, zooms: impl Iterator<Item = Zoom>) -> String {
        if !self.thins() {
            return String::new();
        }
        let limits: Vec<_> = zooms.map(|zoom| (self.features.at(zoom), self.bytes.at(zoom))).collect();
        format!("thinned to {limits:?} by {:?}", self.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LayerKind, OnLargeTile, OnTileError, Rank, Shape};
    use super::*;
    use crate::tile::{LayerId, ZoomLimits};

    /// A layer with a value in every part of the definition.
    fn layer() -> Layer {
        let property =
            |name: &str, of, sql: &str, kind| BoundProperty { name: name.to_owned(), of, sql: sql.to_owned(), kind };
        Layer {
            name: "facilities".to_owned(),
            id: LayerId(0),
            relation: "\"public\".\"api_facility\"".to_owned(),
            display_name: "\"public\".\"api_facility\"".to_owned(),
            query: None,
            geometry: "\"location\"".to_owned(),
            shape: Shape::of_any(4326, false),
            key: vec![
                KeyColumn { quoted: "\"id\"".to_owned(), collated: true },
                KeyColumn { quoted: "\"part\"".to_owned(), collated: false },
            ],
            suits_patches: true,
            has_plain_values: true,
            properties: vec![
                property("name", ComputedFrom::Row, "\"name\"", "String"),
                property("count", ComputedFrom::Cell, "(count(*)\n)", "Number"),
                property("x", ComputedFrom::Tile(TilePart::X), "NULL::int4", "Number"),
            ],
            feature_id: Some("id".to_owned()),
            filter: Some("name <> ''".to_owned()),
            row_zooms: RowZooms::default(),
            simplify: None,
            zooms: "0-2".parse().unwrap(),
            margin: Margin { extent: 4096, buffer: 64, bounds: TileBounds::Degrees, candidates: Some(0.5), moved: 0.0 },
            kind: LayerKind::Cells(Cells {
                grid: CellGrid {
                    shape: CellShape::Hexagon,
                    size: 0.25,
                    geometry: CellGeometry::Polygon,
                    merges: false,
                },
                having: Some("count(*) > 1".to_owned()),
                keeps_lone: true,
            }),
            function: None,
            budget: Budget {
                features: ZoomLimits::everywhere(None),
                bytes: ZoomLimits::everywhere(std::num::NonZeroU64::new(500_000)),
                on_large_tile: OnLargeTile::Thin,
                rank: Some("workers".to_owned()),
            },
            rank: Some(Rank { sql: "(workers\n)".to_owned(), collated: false }),
            on_tile_error: OnTileError::Fail,
            beyond: Beyond::Wrap,
            reaches_beyond: false,
            columns: Vec::new(),
        }
    }

    /// The text is as version 1 wrote it, because its hash is stored in every target.
    #[test]
    fn the_definition_of_a_layer_stays_as_it_was() {
        let expected = "((\"facilities\", \"\\\"public\\\".\\\"api_facility\\\"\", \"\\\"location\\\"\", false, \
            [KeyColumn { quoted: \"\\\"id\\\"\", collated: true }, KeyColumn { quoted: \"\\\"part\\\"\", collated: false }], \
            [BoundProperty { name: \"name\", of: Row, sql: \"\\\"name\\\"\", kind: \"String\" }, \
            BoundProperty { name: \"count\", of: Cell, sql: \"(count(*)\\n)\", kind: \"Number\" }, \
            BoundProperty { name: \"x\", of: Tile(X), sql: \"NULL::int4\", kind: \"Number\" }]), \
            (Some(\"id\"), Some(\"name <> ''\"), [0, 1, 2], \
            Margin { extent: 4096, buffer: 64, bounds: Degrees, candidates: Some(0.5) }, \
            Some(Cells { grid: Grid { shape: Hexagon, size: 0.25, standing: Polygon }, having: Some(\"count(*) > 1\"), keeps_lone: true }), \
            Wrap))thinned to [(None, Some(500000)), (None, Some(500000)), (None, Some(500000))] by Some(\"workers\")";
        assert_eq!(layer().definition(), expected);
        let plain = Layer {
            properties: Vec::new(),
            feature_id: None,
            filter: None,
            margin: Margin::plain(512, 8),
            kind: LayerKind::Rows,
            budget: Budget { on_large_tile: OnLargeTile::Warn, ..layer().budget },
            beyond: Beyond::Skip,
            ..layer()
        };
        let expected = "((\"facilities\", \"\\\"public\\\".\\\"api_facility\\\"\", \"\\\"location\\\"\", false, \
            [KeyColumn { quoted: \"\\\"id\\\"\", collated: true }, KeyColumn { quoted: \"\\\"part\\\"\", collated: false }], []), \
            (None, None, [0, 1, 2], Margin { extent: 512, buffer: 8, bounds: Mercator, candidates: None }, None, Skip))";
        assert_eq!(plain.definition(), expected);
        let simplify = Simplify { tolerance: Some(0.5), snap: None, min_area: Some(1.0), min_length: None };
        let simplified = Layer { simplify: Some(simplify), ..plain.clone() };
        let said = "simplified by Some(0.5), snapped to None, at least Some(1.0) or None";
        assert_eq!(simplified.definition(), format!("{expected}{said}"));
        let row_zooms = RowZooms { min: Some("first".to_owned()), max: None };
        let drawn = Layer { row_zooms, ..plain };
        assert_eq!(drawn.definition(), format!("{expected}rows from Some(\"first\") to None"));
    }
}
