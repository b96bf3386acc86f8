//! The note of what a run has begun, at every step of a run that another one interrupts: durable before the first tile,
//! there until the manifest has moved, gone when a run has finished.

use std::time::Duration;

use oar_tiles::target::{
    IntentKind, Metadata, Publishing, RunKind, Sink as _, TileEdit, Tileset, TreeOptions, Unwritten,
};

use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::{Prefix, options, options_with, run_of, tiles, tileset as s3_tileset, tree as s3_tree};
use crate::support::targets::{
    Held, InBucket, Target, edits, hand_over, held_by, in_folder, look, metadata, needs, once_free, tileset, tree,
    write,
};

/// A run of another fingerprint or scope than the one before it.
fn other_runs() -> Vec<(&'static str, Tileset)> {
    let whole = tileset("0-7", &[]);
    vec![
        ("another configuration", Tileset { fingerprint: "other".to_owned(), ..whole.clone() }),
        ("more zooms", whole.clone()),
        ("a box", tileset("0-7", &["0,-85,180,85"])),
        (
            "another database",
            Tileset {
                run: RunKind::Seed { database: "other".to_owned(), snapshot: "5:5:".to_owned() },
                ..whole.clone()
            },
        ),
        ("a copy", Tileset { run: RunKind::Copy, ..whole }),
    ]
}

/// Tiles that a run writes in one step: a bucket takes one request for each.
const TILES_PER_STEP: usize = 20;

/// A whole run whose manifest has the fingerprint of the run.
fn finish<T: Target>(target: &T, edits: &[TileEdit], run: &Tileset) {
    let mut sink = once_free(|| target.sink());
    sink.begin(run).unwrap();
    for piece in edits.chunks(TILES_PER_STEP) {
        sink.write(piece.to_vec()).unwrap();
    }
    let manifest = metadata("second").manifest.replace("contract", &run.fingerprint);
    sink.finish(&Metadata { manifest, ..metadata("second") }).unwrap();
}

/// The tiles of the first run: those of zooms 0 to 4.
fn first(edits: &[TileEdit]) -> Vec<TileEdit> {
    edits.iter().filter(|edit| edit.id().coord.zoom().get() <= 4).cloned().collect()
}

fn is_noted_at_every_step<T: Target>(new: impl Fn() -> T) {
    for (what, run) in other_runs() {
        // Every tile of the second run differs, or is new.
        let all = |target: &T| {
            let all = edits(needs(target), 1, |_| true).into_iter();
            all.filter(|edit| edit.id().coord.zoom().get() <= 6).collect::<Vec<TileEdit>>()
        };
        let target = new();
        let second = all(&target);
        let steps = second.chunks(TILES_PER_STEP).count();
        for step in (0..=steps).step_by(3) {
            let target = new();
            let before = first(&edits(needs(&target), 0, |_| false));
            write(&target, &before, &tileset("0-4", &[]), "first");
            assert_eq!(look(&target).1.unfinished, [], "{what}");
            let mut sink = once_free(|| target.sink());
            assert_eq!(look(&target).1.unfinished, [], "{what}: nothing is begun yet");
            sink.begin(&run).unwrap();
            for piece in second.chunks(TILES_PER_STEP).take(step) {
                sink.write(piece.to_vec()).unwrap();
            }
            // As a kill would leave it; dropped before its first tile, a run into a directory takes its note out again.
            let (_, described) = look(&target);
            if step > 0 {
                drop(sink);
                assert_eq!(look(&target).1.unfinished, described.unfinished, "{what}, step {step}");
            } else {
                drop(sink);
            }
            assert!(described.manifest.unwrap().contains("first"), "{what}, step {step}");
            let noted = described.unfinished.last().unwrap_or_else(|| panic!("{what}, step {step}: nothing is noted"));
            assert_eq!((&noted.fingerprint, &*noted.zooms), (&run.fingerprint, "0-7"), "{what}, step {step}");
            assert_eq!(noted.run == IntentKind::Copy, run.run == RunKind::Copy);
            // An edit that is not complete leaves the note, a run of the same scope takes it out.
            let stays = RunKind::Reseed { database: "d".to_owned(), complete: false, max_dead_percent: Some(30) };
            let edit = Tileset { unwritten: Unwritten::Keep, run: stays, ..tileset("0-4", &[]) };
            if run.fingerprint == edit.fingerprint && step > 0 {
                let mut editor = once_free(|| target.editor());
                editor.begin(&edit).unwrap();
                hand_over(editor, &[], "first again").unwrap();
                assert_eq!(look(&target).1.unfinished.last(), Some(noted), "{what}, step {step}");
            }
            finish(&target, &second, &run);
            let (held, described) = look(&target);
            assert_eq!(described.unfinished, [], "{what}, step {step}");
            if what != "a box" {
                assert_eq!(held, held_by(&second), "{what}, step {step}");
            }
        }
    }
}

fn forced(options: TreeOptions) -> TreeOptions {
    TreeOptions { force: true, ..options }
}

#[test]
fn a_directory_notes_what_is_begun_at_every_step() {
    is_noted_at_every_step(|| in_folder(forced(tree("{z}/{x}/{y}.pbf", Publishing::InPlace))));
}

#[test]
fn a_prefix_of_a_bucket_notes_what_is_begun_at_every_step() {
    is_noted_at_every_step(|| InBucket(Prefix::new(), forced(tree("{z}/{x}/{y}.pbf", Publishing::InPlace))));
}

/// The connection is cut before each request of a run in turn, the last ones included: those of the manifest and of the
/// note itself.
#[test]
fn cut_before_any_of_its_requests_a_run_into_a_bucket_has_noted_what_it_changed() {
    let (before, after) = (tiles(20, 1), tiles(30, 2));
    let narrow = Tileset { scope: crate::support::targets::tileset("0-6", &[]).scope, ..s3_tileset("f") };
    let other = s3_tileset("g");
    let mut cut = 2;
    loop {
        let prefix = Prefix::new();
        run_of(prefix.sink(), &narrow, &before, 1).unwrap();
        let old = prefix.tiles();
        let mut seen = 0;
        let proxy = Proxy::before(&prefix.endpoint, move |_| {
            seen += 1;
            if seen > cut { Fault::Reset } else { Fault::None }
        });
        let hurried = options_with(&proxy.endpoint, |s3| {
            (s3.attempts, s3.in_flight) = (1, 1.try_into().unwrap());
            s3.lease = Duration::from_secs(1).into();
            s3.request_timeout = Duration::from_secs(2).into();
        });
        let force = TreeOptions { force: true, ..s3_tree() };
        let ended = prefix.sink_with(hurried, force.clone()).and_then(|sink| run_of(sink, &other, &after, 2));
        let note = prefix.note(".oar-tiles/lease.json").unwrap();
        let noted = note["unfinished"].as_array().map_or(0, Vec::len);
        let (changed, moved) = (prefix.tiles() != old, prefix.manifest_run() == Some(2));
        assert!(noted > 0 || !changed || moved, "cut before request {cut}: {note}");
        assert!(moved || ended.is_err(), "cut before request {cut}");
        if ended.is_ok() {
            assert!(noted == 0 && changed, "{note}");
            assert!(cut > 30, "{cut}");
            break;
        }
        // Whatever was left, the next run makes it right.
        let mut released = note.clone();
        released["expires"] = 0.into();
        prefix.put(".oar-tiles/lease.json", released.to_string().as_bytes());
        let sink = prefix.sink_with(options(&prefix.endpoint), force).unwrap();
        run_of(sink, &other, &after, 3).unwrap();
        let note = prefix.note(".oar-tiles/lease.json").unwrap();
        assert_eq!((note.get("unfinished"), prefix.manifest_run()), (None, Some(3)), "cut before request {cut}");
        // Early and late requests one by one, those for tiles in greater steps.
        cut += if (9..28).contains(&cut) { 6 } else { 1 };
    }
}

#[test]
fn a_version_that_a_wider_run_has_begun_holds_nothing_of_it_when_a_narrower_one_publishes_it() {
    fn holds_no_ghosts<T: Target>(target: &T) {
        let all = edits(needs(target), 1, |_| true);
        let mut sink = once_free(|| target.sink());
        sink.begin(&tileset("0-7", &[])).unwrap();
        for piece in all.chunks(40) {
            sink.write(piece.to_vec()).unwrap();
        }
        drop(sink);
        let narrow = first(&all);
        write(target, &narrow, &tileset("0-4", &[]), "narrow");
        let (held, described) = look(target);
        assert_eq!((held, described.unfinished), (held_by(&narrow) as Held, Vec::new()));
    }
    let publish = Publishing::Versioned { keep: 1, keep_for: Duration::ZERO };
    holds_no_ghosts(&in_folder(tree("{version}/{z}/{x}/{y}.pbf", publish)));
    holds_no_ghosts(&InBucket(Prefix::new(), tree("{version}/{z}/{x}/{y}.pbf", publish)));
}
