//! The statements about features as snapshots, for each kind of layer that has other statements. A changed statement is
//! visible in review.

use std::sync::Arc;

use super::{
    CachedRowsParameters, Candidates, ExpectedRows, KeyArray, KeyRange, KeySample, RowChoice, SurveyedRepair,
    cached_rows, facet_values, hash_conditions, key_bounds, matching_keys, points_in_tiles, read_statements, render,
    scan, skipped, some_shapes, survey,
};
use crate::cells::{CellEdges, CellGeometry, CellGrid, CellShape};
use crate::mvt::FeatureKey;
use crate::postgis::layer::{
    Beyond, BoundProperty, Budget, Cells, ComputedFrom, EdgeUnits, KeyColumn, KeyType, Layer, LayerKind, LayerSection,
    OnLargeTile, OnTileError, PropertyNames, Rank, RowZooms, Shape, Simplify,
};
use crate::tile::{LayerId, Margin, TileBounds, Zoom, ZoomLimits};

/// A layer of points in degrees with a key, two properties and a filter.
fn points() -> Layer {
    let property = |name: &str, sql: &str, kind| BoundProperty {
        name: name.to_owned(),
        of: ComputedFrom::Row,
        sql: sql.to_owned(),
        kind,
    };
    Layer {
        section: Arc::new(LayerSection { feature_id: Some("id".to_owned()), ..LayerSection::default() }),
        name: "facilities".to_owned(),
        id: LayerId(0),
        relation: "\"public\".\"api_facility\"".to_owned(),
        display_name: "\"public\".\"api_facility\"".to_owned(),
        query: None,
        geometry: "\"location\"".to_owned(),
        shape: Shape { srid: 4326, points: true, members: false, geography: false, curves: false, edge: None },
        key: vec![KeyColumn { quoted: "\"id\"".to_owned(), collated: false, kind: KeyType::of("pg_catalog", "int4") }],
        has_spatial_index: true,
        suits_patches: true,
        names: PropertyNames::Own,
        properties: vec![property("name", "\"name\"", "String"), property("workers", "(workers * 2\n)", "Number")],
        filter: Some("active".to_owned()),
        row_zooms: RowZooms::default(),
        simplify: None,
        zooms: "0-14".parse().unwrap(),
        margin: Margin::plain(4096, 64),
        kind: LayerKind::Rows,
        function: None,
        budget: Budget {
            features: ZoomLimits::everywhere(None),
            bytes: ZoomLimits::everywhere(std::num::NonZeroU64::new(500_000)),
            on_large_tile: OnLargeTile::Warn,
            rank: None,
        },
        rank: None,
        on_tile_error: OnTileError::Fail,
        beyond: Beyond::Wrap,
        reaches_beyond: false,
        repair: false,
        columns: Vec::new(),
        facets: Vec::new(),
    }
}

/// Lines and areas in a national system, some of which reach beyond ±180°.
fn shapes() -> Layer {
    Layer { shape: Shape::of_any(2056, false), reaches_beyond: true, ..points() }
}

/// The same layer, simplified; each row is drawn from a zoom of its own on.
fn simplified() -> Layer {
    let simplify = Simplify { tolerance: Some(0.5), snap: Some(0.25), min_area: Some(1.0), min_length: Some(2.0) };
    let row_zooms = RowZooms { min: Some("first".to_owned()), max: None };
    Layer { simplify: Some(simplify), row_zooms, ..shapes() }
}

/// Polygons in degrees that are repaired.
fn repaired() -> Layer {
    let edge = Some(EdgeUnits::Degrees);
    let shape = Shape { srid: 4326, points: false, members: false, geography: false, curves: false, edge };
    Layer { shape, repair: true, ..points() }
}

/// Points whose tiles are computed in degrees.
fn in_degrees() -> Layer {
    let margin = Margin { bounds: TileBounds::Degrees, candidates: Some(0.5), ..points().margin };
    Layer { margin, ..points() }
}

/// Points; those of the lowest rank are left out of large tiles.
fn thinned() -> Layer {
    let budget = Budget {
        features: ZoomLimits::everywhere(std::num::NonZeroU64::new(1_000)),
        on_large_tile: OnLargeTile::Thin,
        rank: Some("workers".to_owned()),
        ..points().budget
    };
    Layer {
        budget,
        rank: Some(Rank { sql: "(workers\n)".to_owned(), collated: false, read_as: Some("int4") }),
        ..points()
    }
}

/// Squares with the number of their rows.
fn squares() -> Layer {
    let count = BoundProperty {
        name: "count".to_owned(),
        of: ComputedFrom::Cell,
        sql: "(count(*)\n)".to_owned(),
        kind: "Number",
    };
    let grid = CellGrid {
        shape: CellShape::Square,
        size: 0.125,
        geometry: CellGeometry::Polygon,
        merges: false,
        edges: CellEdges::Mercator,
    };
    Layer {
        properties: vec![count],
        section: Arc::default(),
        kind: LayerKind::Cells(Cells { grid, having: None, keeps_lone: false }),
        ..points()
    }
}

fn compare(name: &str, statement: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, statement));
}

#[test]
fn the_statements_that_render() {
    compare("render_points", &render(&points(), None, SurveyedRepair::Unknown, Candidates::Found));
    compare("render_points_touching", &render(&points(), None, SurveyedRepair::Unknown, Candidates::Touching));
    compare("render_shapes", &render(&shapes(), None, SurveyedRepair::Unknown, Candidates::Found));
    compare("render_repaired", &render(&repaired(), None, SurveyedRepair::Unknown, Candidates::Found));
    compare("render_repaired_before", &render(&repaired(), None, SurveyedRepair::Listed, Candidates::Found));
    compare("render_simplified", &render(&simplified(), None, SurveyedRepair::Unknown, Candidates::Found));
    compare("render_thinned", &render(&thinned(), None, SurveyedRepair::Unknown, Candidates::Found));
    compare("render_squares", &render(&squares(), None, SurveyedRepair::Unknown, Candidates::Found));
    compare("render_counted_squares", &render(&squares(), None, SurveyedRepair::Unknown, Candidates::Counted));
}

#[test]
fn the_statements_that_read_rows() {
    compare("survey_points", &survey(&points(), None, 2, Zoom::MAX, ""));
    compare("survey_shapes", &survey(&shapes(), None, 0, Zoom::MAX, ""));
    compare("survey_repaired", &survey(&repaired(), None, 1, Zoom::MAX, ""));
    compare("skipped", &skipped(&points()));
    compare("locks", &read_statements(&points()).join(";\n"));
    let parameters = CachedRowsParameters { name: 5, extent: 6, max_bytes: 7 };
    let whole = RowChoice::Boxes { boxes: 1, rows: ExpectedRows::Counted(1_000), keys: None };
    compare("cached_rows", &cached_rows(&points(), whole, parameters, None));
    compare("cached_rows_with_ranks", &cached_rows(&thinned(), whole, parameters, None));
    let key = ["text", "int4"].map(|kind| KeyColumn {
        quoted: format!("\"{kind}\""),
        collated: kind == "text",
        kind: KeyType::of("pg_catalog", kind),
    });
    let keyed = Layer { key: key.into(), ..thinned() };
    compare("cached_rows_with_keys", &cached_rows(&keyed, whole, parameters, keyed.key_types().as_ref()));
    let (key, among) = (FeatureKey::Behind, Some(KeyArray::Columns));
    let found =
        [matching_keys(&keyed, &key, None), matching_keys(&keyed, &key, among), facet_values(&keyed, &key, None)];
    compare("keys_of_rows", &found.map(Option::unwrap_or_default).join(";\n"));
    let mut objects = Layer { names: PropertyNames::Members { of: 2 }, ..points() };
    objects.properties.push(BoundProperty {
        name: "more".to_owned(),
        sql: "\"more\"".to_owned(),
        ..objects.properties[0].clone()
    });
    compare("cached_rows_with_objects", &cached_rows(&objects, whole, parameters, None));
    compare(
        "cached_shapes",
        &format!("{};\n{}", cached_rows(&shapes(), whole, parameters, None), some_shapes(&shapes(), 1)),
    );
    let ranges = KeyRange::between(&points(), "bigint", &["10".to_owned(), "20".to_owned()]);
    let conditions: Vec<String> = ranges.iter().map(|range| range.condition(8)).collect();
    let sampled = key_bounds(&points(), 3, KeySample::Pages { percent: 12.5 }).unwrap_or_default();
    compare("key_ranges", &format!("{sampled};\n{}", conditions.join(";\n")));
    let sampled = key_bounds(&points(), 3, KeySample::Rows { boxes: 1, one_in: 61 }).unwrap_or_default();
    let shares = hash_conditions(&points(), 2).join("\n");
    compare("shares", &format!("{};\n{sampled};\n{shares}", scan(&points(), 1, true)));
    let parameters = CachedRowsParameters { name: 11, extent: 12, max_bytes: 13 };
    compare("points_in_tiles", &points_in_tiles(&points()));
    compare("points_in_tiles_in_degrees", &points_in_tiles(&in_degrees()));
    compare("cached_rows_near_changes", &cached_rows(&points(), RowChoice::Areas { limit: 1_000 }, parameters, None));
}

#[test]
fn every_snapshot_is_compared_by_a_test() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/postgis/sql/snapshots");
    let source = include_str!("tests.rs");
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(source.contains(&format!("\"{name}\"")), "no test compares it: delete {}", path.display());
    }
}
