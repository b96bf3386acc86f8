//! The tables and lines at the end of commands, and the same as JSON, from made-up figures.

use std::collections::BTreeMap;

use oar_tiles::cli::{render_copy, render_versions};
use oar_tiles::error::ErrorKind;
use oar_tiles::manifest::Manifest;
use oar_tiles::pipeline::{LargestTile, SlowBatch};
use oar_tiles::plan::HeavyTile;
use oar_tiles::report::{
    Backlog, BehindTarget, Contents, ContentsZoom, DirtyReport, DirtyZoom, Event, EventRecord, FailedLayer,
    FindingKind, Findings, LargeTile, LayerBudget, LoggedTable, PlanReport, PlanZoom, PurgeStatus, Reason, Requests,
    ReseedReport, RunReport, RunStages, RunZoom, ShownFeature, SkippedRows, render_backlog, render_contents,
    render_dirty, render_features, render_findings, render_plan, render_reseed, render_run,
};
use oar_tiles::run::copy::{CopiedPart, CopyReport};
use oar_tiles::target::{Latest, Version};
use oar_tiles::tile::{LonLatBox, TileCoord, Zoom};
use serde::Serialize;

use crate::texts::compare;

/// A table, a blank line, and the same value as `--report` writes it.
fn both(table: &str, value: &impl Serialize) -> String {
    format!("{table}\n{}\n", serde_json::to_string_pretty(value).unwrap())
}

fn tile(text: &str) -> TileCoord {
    text.parse().unwrap()
}

fn manifest(unrendered: &[&str]) -> Manifest {
    Manifest {
        version: 1,
        generator: "oar-tiles 1.2.3".to_owned(),
        snapshot: "741:741:".to_owned(),
        seed_snapshot: None,
        database: None,
        witness: None,
        fingerprint: "0123456789abcdef-r1-p1".to_owned(),
        reads: None,
        zooms: "0-14".to_owned(),
        bbox: vec!["5.9,45.8,10.5,47.8".to_owned()],
        kept: Vec::new(),
        partial: Vec::new(),
        planned: 12_346,
        stored: 12_340,
        empty: 4,
        unrendered: unrendered.iter().map(|tile| (*tile).to_owned()).collect(),
        warned: BTreeMap::new(),
        rows: None,
        started: 1_790_000_000,
        seconds: 83.5,
        publication: None,
    }
}

fn budgets() -> Vec<LayerBudget> {
    vec![
        LayerBudget {
            layer: "facilities".to_owned(),
            thinned_tiles: 12,
            features_left_out: 34_567,
            large_tiles: 0,
            heaviest: None,
        },
        LayerBudget {
            layer: "regions".to_owned(),
            thinned_tiles: 0,
            features_left_out: 0,
            large_tiles: 3,
            heaviest: Some(LargeTile { tile: tile("4/8/5"), bytes: 612_345, limit: 500_000 }),
        },
    ]
}

fn skipped() -> Vec<SkippedRows> {
    let rows = |reason: &str, rows, examples: &[&str]| SkippedRows {
        layer: "facilities".to_owned(),
        reason: reason.to_owned(),
        rows,
        examples: examples.iter().map(|key| (*key).to_owned()).collect(),
    };
    vec![
        rows("NULL", 1, &["17"]),
        rows("empty", 2, &["18", "19"]),
        rows("not finite", 1, &["20"]),
        rows("outside", 1_234, &["21", "22", "23"]),
        rows("unsupported", 1, &["24"]),
        rows("foreign", 1, &["25"]),
    ]
}

fn failed() -> Vec<FailedLayer> {
    let layer = |number: u32| FailedLayer {
        tile: TileCoord::new(Zoom::new(9).unwrap(), number, 180).unwrap(),
        layer: if number.is_multiple_of(2) { "facilities" } else { "regions" }.to_owned(),
        cause: "division by zero".to_owned(),
    };
    (0..12).map(layer).collect()
}

fn run_report() -> RunReport {
    let zoom = |zoom, tiles, largest| RunZoom {
        zoom,
        tiles,
        features: tiles * 25,
        bytes: tiles * 3_500,
        median: 2_800,
        p95: 9_100,
        largest: Some(largest),
        largest_layer: Some("facilities".to_owned()),
        worker_seconds: f64::from(zoom) * 7.3 + 0.04,
    };
    RunReport {
        output: "facilities.mbtiles".to_owned(),
        written: 12_300,
        unchanged: 40,
        deleted: 5,
        requests: Some(Requests { mean_in_flight: 61.5, most_in_flight: 64, requests: 12_340 }),
        layers: vec!["facilities".to_owned(), "regions".to_owned()],
        manifest: manifest(&["9/268/180"]),
        features: 308_500,
        bytes: 43_190_000,
        plan_seconds: 4.25,
        reading_seconds: 1.5,
        reading_sessions: 4,
        render_seconds: 78.0,
        finish_seconds: 1.25,
        stages: RunStages {
            workers: 2,
            database: 0.12,
            drawing: 0.71,
            packing: 0.544,
            writing: 0.08,
            bottleneck: "drawing",
        },
        shapes: 52_300,
        asked_shapes: 1_204,
        restarts: 1,
        zooms: vec![
            zoom(0, 1, LargestTile { tile: tile("0/0/0"), bytes: 91_234 }),
            zoom(14, 12_339, LargestTile { tile: tile("14/8541/5747"), bytes: 412_345 }),
        ],
        slowest: vec![SlowBatch {
            zoom: 9,
            min_x: 264,
            max_x: 271,
            min_y: 176,
            max_y: 183,
            tiles: 64,
            features: 12_000,
            render_seconds: 1.25,
            pack_seconds: 0.5,
        }],
        skipped: skipped(),
        budgets: budgets(),
        failed: failed(),
        warnings: vec!["layer \"regions\" ends at zoom 9".to_owned()],
    }
}

#[test]
fn a_seed() {
    let report = run_report();
    compare("seed", &both(&render_run(&report), &report));
    let plain = RunReport {
        written: 12_340,
        unchanged: 0,
        deleted: 0,
        layers: vec!["facilities".to_owned()],
        manifest: Manifest { empty: 0, ..manifest(&[]) },
        skipped: Vec::new(),
        budgets: Vec::new(),
        failed: Vec::new(),
        ..report
    };
    compare("seed_plain", &render_run(&plain));
}

#[test]
fn a_plan() {
    let zoom = |zoom, tiles| PlanZoom {
        zoom,
        tiles,
        features: tiles * 25,
        batches: tiles.div_ceil(100),
        heaviest: vec![HeavyTile { tile: tile("0/0/0"), features: 25 }],
        estimated_bytes: tiles * 3_500,
        estimated_seconds: f64::from(zoom) * 7.3,
    };
    let report = PlanReport {
        zooms: vec![zoom(0, 1), zoom(14, 12_339)],
        reading_seconds: 2.5,
        workers: 8,
        skipped: skipped(),
        warnings: Vec::new(),
    };
    compare("plan", &both(&render_plan(&report), &report));
}

fn reasons() -> Vec<Reason> {
    let reason = |what: &str, rows, seconds| Reason { what: what.to_owned(), rows, seconds };
    vec![reason("\"public\".\"api_facility\"", 1_204, 95.0), reason("could not be rendered before", 1, 0.0)]
}

#[test]
fn a_reseed() {
    let report = ReseedReport {
        written_anew: Some("it is small".to_owned()),
        output: "facilities.mbtiles".to_owned(),
        dirty: 160,
        patched: 120,
        reasons: reasons(),
        zooms: Some(vec![DirtyZoom { zoom: 0, tiles: 1 }, DirtyZoom { zoom: 14, tiles: 159 }]),
        written: 140,
        added: 2,
        unchanged: 17,
        deleted: 1,
        empty: 2,
        bytes: 560_000,
        complete: true,
        since: Some("700:700:".to_owned()),
        manifest: Some(manifest(&[])),
        largest: Some(LargestTile { tile: tile("0/0/0"), bytes: 91_234 }),
        largest_layer: Some("facilities".to_owned()),
        budgets: budgets(),
        failed: Vec::new(),
        warnings: Vec::new(),
        plan_seconds: 0.04,
        render_seconds: 0.2,
        finish_seconds: 0.05,
        seconds: 0.29,
        latency_seconds: Some(1.5),
        restarts: 0,
        has_put_off_compaction: false,
    };
    compare("reseed", &both(&render_reseed(&report), &report));
    let partial = ReseedReport { complete: false, budgets: Vec::new(), ..report.clone() };
    compare("reseed_of_a_part", &render_reseed(&partial));
    let unrendered = ReseedReport { manifest: Some(manifest(&["9/268/180"])), complete: false, ..partial };
    compare("reseed_with_a_failed_tile", &render_reseed(&unrendered));
    compare("reseed_of_nothing", &render_reseed(&ReseedReport::nothing("facilities.mbtiles".to_owned())));
}

#[test]
fn a_reseed_that_only_says_what_it_would_do() {
    let zooms = vec![DirtyZoom { zoom: 0, tiles: 1 }, DirtyZoom { zoom: 14, tiles: 1_159 }];
    let report = DirtyReport { zooms: Some(zooms), reasons: reasons() };
    compare("dirty", &both(&render_dirty(&report), &report));
    compare("dirty_all", &render_dirty(&DirtyReport::all(reasons())));
}

#[test]
fn a_copy() {
    let copy = CopyReport {
        source: "facilities.mbtiles".to_owned(),
        target: "s3://maps/facilities/".to_owned(),
        stored: 12_000,
        unchanged: 340,
        deleted: 6,
        bytes: 43_190_000,
        part: Some(CopiedPart::Tiles),
        seconds: 12.3,
    };
    compare("copy", &render_copy(&copy));
}

#[test]
fn a_verification() {
    let mut findings = Findings::new("facilities.mbtiles".to_owned());
    (findings.tiles, findings.decoded, findings.rendered, findings.planned) = (12_340, 10_000, Some(400), Some(12_346));
    compare("verify_sound", &render_findings(&findings));
    findings.skipped = Some(skipped());
    findings.notes.push("a seed of zooms 0-14 has not finished".to_owned());
    let kinds = [
        FindingKind::Structure,
        FindingKind::Manifest,
        FindingKind::Unfinished,
        FindingKind::Broken,
        FindingKind::Empty,
        FindingKind::Outside,
        FindingKind::Undescribed,
        FindingKind::Missing,
        FindingKind::Ghost,
        FindingKind::Different,
        FindingKind::Unrendered,
    ];
    for kind in kinds {
        findings.add(kind, || "tile 9/268/180".to_owned());
    }
    (0..30).for_each(|number| findings.add(FindingKind::Different, || format!("tile 9/{number}/180")));
    compare("verify", &both(&render_findings(&findings), &findings));
}

#[test]
fn the_state_of_the_change_log() {
    let target = |target: &str, needs_seed: Option<&str>, reasons, dirty| BehindTarget {
        target: target.to_owned(),
        needs_seed: needs_seed.map(str::to_owned),
        reasons,
        dirty,
        unfinished: Vec::new(),
        purges: Vec::new(),
    };
    let failed = vec![Reason { what: "could not be rendered before".to_owned(), rows: 1, seconds: 0.0 }];
    let mut backlog = Backlog {
        tables: vec![
            LoggedTable { table: "\"public\".\"api_facility\"".to_owned(), rows: 1_204, oldest_seconds: Some(95.0) },
            LoggedTable { table: "\"public\".\"region\"".to_owned(), rows: 0, oldest_seconds: None },
        ],
        targets: vec![
            target("a.mbtiles", None, Vec::new(), Some(0)),
            target("b.mbtiles", None, reasons(), Some(160)),
            target("c.mbtiles", None, reasons(), None),
            target("d.mbtiles", None, failed, Some(1)),
            target("e.mbtiles", Some("e.mbtiles needs a full seed: its manifest has no snapshot"), Vec::new(), None),
        ],
        no_notifications: Some("a pooler does not pass them on".to_owned()),
    };
    backlog.targets[0].unfinished.push("a seed of zooms 0-8 that began 2026-11-22T18:00:00Z".to_owned());
    let purge = |provider: &str, tiles, stopped: Option<&str>| PurgeStatus {
        provider: provider.to_owned(),
        tiles,
        again: Some(0),
        items: 3,
        oldest_seconds: Some(95),
        spent_this_month: 7,
        stopped: stopped.map(str::to_owned),
    };
    backlog.targets[1].purges = vec![
        purge("fastly https://tiles.example.org/", Some(1_204), Some("403 Forbidden")),
        purge("varnish https://tiles.example.org/", None, None),
    ];
    compare("backlog", &both(&render_backlog(&backlog), &backlog));
}

#[test]
fn what_a_target_holds() {
    let zoom = |zoom, tiles: u64| ContentsZoom {
        zoom,
        tiles,
        bytes: tiles * 3_500,
        median: 2_800,
        p95: 9_100,
        largest: Some(LargestTile { tile: tile("0/0/0"), bytes: 91_234 }),
    };
    let layers = serde_json::json!([
        { "id": "facilities", "minzoom": 0, "maxzoom": 14, "fields": { "name": "String", "workers": "Number" } }
    ]);
    let contents = Contents {
        target: "facilities.mbtiles".to_owned(),
        name: Some("Facilities".to_owned()),
        description: Some("Where things are made".to_owned()),
        bounds: Some(LonLatBox::from_sides([5.9, 45.8, 10.5, 47.8]).into()),
        min_zoom: Some(0),
        max_zoom: Some(14),
        vector_layers: layers,
        manifest: Some(manifest(&["9/268/180"])),
        unfinished: vec!["a seed of zooms 0-8 that began 2026-11-22T18:00:00Z".to_owned()],
        seeded: Some("2026-09-21T14:13:20Z".to_owned()),
        tiles: 12_340,
        bytes: 43_190_000,
        dead_bytes: Some(1_234_000),
        zooms: vec![zoom(0, 1), zoom(14, 12_339)],
    };
    compare("contents", &both(&render_contents(&contents), &contents));
    let others = Contents {
        manifest: None,
        seeded: None,
        unfinished: Vec::new(),
        description: None,
        dead_bytes: None,
        ..contents
    };
    compare("contents_of_another_program", &render_contents(&others));
}

#[test]
fn what_a_tile_holds() {
    let feature = |id: &str, geometry: &str, properties: &str| ShownFeature {
        layer: "facilities".to_owned(),
        id: id.to_owned(),
        geometry: geometry.to_owned(),
        properties: properties.to_owned(),
    };
    let features = [
        feature("17", "point", "{\"name\":\"Zürich\",\"workers\":12}"),
        feature("1234567", "3 points", "{}"),
        feature("", "polygon", "{\"name\":null}"),
    ];
    compare("features", &render_features(&features));
}

#[test]
fn the_versions_of_a_target() {
    let version = |name: &str, published| Version { version: name.to_owned(), published };
    let versions = vec![version("20261122T180000Z", 1_795_370_400), version("20261121T180000Z", 1_795_284_000)];
    compare("versions", &render_versions(&Latest { version: "20261121T180000Z".to_owned(), versions }));
}

#[test]
fn the_events_of_a_run_as_json() {
    let events = [
        Event::Surveying { layer: "facilities".to_owned() },
        Event::Reading { layer: "facilities".to_owned() },
        Event::Part { part: 8, of: 19, done: 7 },
        Event::Planned { tiles: 12_346, features: 308_500, batches: 130 },
        Event::Stored { zoom: Zoom::new(14).unwrap(), tiles: 100, features: 2_500, bytes: 350_000 },
        Event::Skipped(skipped().remove(0)),
        Event::Warning { message: "layer \"regions\" ends at zoom 9".to_owned() },
        Event::Restarting { attempt: 1, of: 3, cause: "the database went away".to_owned() },
        Event::Finishing,
        Event::Done { output: "facilities.mbtiles".to_owned(), tiles: 12_340, bytes: 43_190_000, seconds: 83.5 },
        Event::Watching {
            database: "database oar at db.example".to_owned(),
            target: "facilities.mbtiles".to_owned(),
            layers: vec!["facilities".to_owned()],
            cursor: Some("120:124:122".to_owned()),
            debounce_seconds: 0.5,
            poll_seconds: 30.0,
            cdns: vec!["cloudfront".to_owned()],
        },
        Event::Published {
            target: "by/{country}.pmtiles".to_owned(),
            variants: Some(2),
            rows: None,
            dirty: None,
            tiles: 12,
            deleted: 1,
            bytes: 43_190,
            latency_seconds: None,
            seconds: 0.11,
        },
        Event::Published {
            target: "facilities.mbtiles".to_owned(),
            variants: None,
            rows: Some(3),
            dirty: Some(14),
            tiles: 12,
            deleted: 1,
            bytes: 43_190,
            latency_seconds: Some(0.62),
            seconds: 0.11,
        },
        Event::Failed {
            kind: ErrorKind::NeedsSeed,
            exit_code: 4,
            causes: Vec::new(),
            message: "facilities.mbtiles needs a full seed".to_owned(),
        },
    ];
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_795_370_400);
    let json = |event| serde_json::to_string(&EventRecord::at(time, event)).unwrap();
    let lines: Vec<String> = events.iter().map(json).collect();
    compare("events", &lines.join("\n"));
}
