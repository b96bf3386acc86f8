//! Edits of targets in S3: what is asked of the server for them, and what happens when it refuses.

use std::time::Duration;

use oar_tiles::stop::{Signal, Stop};
use oar_tiles::target::{
    BucketError, BucketOptions, BucketPmtiles, BucketReader, BucketTiles, Finished, ObjectKey, ReadError, Sink,
    TileEdit, Tileset, Unwritten, Written, read_all,
};
use oar_tiles::tile::TileCoord;

use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::{Prefix, metadata, named, options, run, tiles, tileset, tree};

pub(crate) type Tiles = Vec<(TileCoord, Vec<u8>)>;

pub(crate) fn staying() -> Tileset {
    Tileset { unwritten: Unwritten::Keep, ..tileset("f") }
}

pub(crate) fn put((tile, bytes): &(TileCoord, Vec<u8>)) -> TileEdit {
    TileEdit::Put((*tile).into(), bytes.clone().into())
}

/// Edits in one piece.
pub(crate) fn edit<T: Sink>(mut sink: T, edits: Vec<TileEdit>, run: u32) -> Result<(Written, Finished), T::Error> {
    sink.begin(&staying())?;
    let written = sink.write(edits)?;
    Ok((written, sink.finish(&metadata("f", run))?))
}

/// Of 320 tiles 300 are there. Handed over are 100 of them with the same bytes, 30 others with new ones, 20 that are
/// not there, and removals of 10 that are there and 10 that are not.
fn edits() -> (Tiles, Vec<TileEdit>, Tiles) {
    let (before, after) = (tiles(330, 1), tiles(330, 2));
    let edits = (0..330).filter_map(|number| match number {
        0..100 => Some(put(&before[number])),
        100..130 | 300..320 => Some(put(&after[number])),
        290..300 | 320..330 => Some(TileEdit::Remove(after[number].0.into())),
        _ => None,
    });
    let edits = edits.collect();
    let held = (0..320).filter(|number| !(290..300).contains(number));
    let held =
        held.map(|number| if (100..130).contains(&number) || number >= 300 { &after } else { &before }[number].clone());
    let held = held.collect();
    (before[..300].to_vec(), edits, held)
}

#[test]
fn a_prefix_is_asked_for_the_tiles_handed_over_and_for_nothing_else() {
    let prefix = Prefix::new();
    let (before, edits, held) = edits();
    run(prefix.sink(), &before, 1).unwrap();
    // Slow enough for as many as may be in flight to meet.
    let slow = |seen: &crate::support::proxy::Seen| match &*seen.method {
        "HEAD" => Fault::Slow(Duration::from_millis(30)),
        _ => Fault::None,
    };
    let proxy = Proxy::before(&prefix.endpoint, slow);
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let (written, finished) = edit(sink, edits.clone(), 2).unwrap();
    let counts = [written.stored, written.removed, written.unchanged, written.added, finished.deleted];
    assert_eq!(counts, [50, 20, 100, 20, 10]);
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&held), Some(2)));
    let seen = proxy.take_seen();
    let count = |holds: &dyn Fn(&&crate::support::proxy::Seen) -> bool| seen.iter().filter(holds).count();
    assert_eq!(count(&|seen| seen.method == "HEAD"), 170, "each tile once");
    assert_eq!(count(&|seen| seen.is_tile()), 50);
    assert_eq!(count(&|seen| seen.method == "POST"), 1, "one request deletes all ten");
    assert_eq!(count(&|seen| seen.target.contains("list-type")), 0, "nothing is listed");
    // Again, and nothing is left to be done: every request for a tile is a look at it.
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let (written, finished) = edit(sink, edits, 3).unwrap();
    assert_eq!((written.stored, written.unchanged, written.added, finished.deleted), (0, 150, 0, 0));
    let looks = finished.in_flight.unwrap();
    assert_eq!((looks.requests, looks.peak), (170, 16), "as many at once as may be");
}

/// Edits as a patch does: each tile is read before it is handed over. Gives the requests for tiles by their methods.
fn patch(
    prefix: &Prefix,
    proxy: &Proxy,
    options: &BucketOptions,
    edits: Vec<TileEdit>,
    run: u32,
) -> (Written, Vec<String>) {
    let mut sink = prefix.sink_with(options.clone(), tree()).unwrap();
    sink.begin(&staying()).unwrap();
    let handle = prefix.runtime.handle().clone();
    let mut reader = BucketReader::open(prefix.location.clone(), options.clone(), &tree().template, handle).unwrap();
    let ids: Vec<_> = edits.iter().map(TileEdit::id).collect();
    read_all(&mut reader, &ids, |_, _| Ok::<(), ReadError>(())).unwrap();
    let written = sink.write(edits).unwrap();
    sink.finish(&metadata("f", run)).unwrap();
    let seen = proxy.take_seen().into_iter().filter(|seen| seen.target.contains(".pbf"));
    (written, seen.map(|seen| seen.method).collect())
}

#[test]
fn a_patched_tile_is_read_once_and_written_once_on_connections_that_stay_open() {
    let prefix = Prefix::new();
    let (before, edits, held) = edits();
    run(prefix.sink(), &before, 1).unwrap();
    let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
    let options = options(&proxy.endpoint);
    let (written, requests) = patch(&prefix, &proxy, &options, edits.clone(), 2);
    let count = |method: &str| requests.iter().filter(|request| *request == method).count();
    assert_eq!((count("GET"), count("HEAD"), count("PUT"), requests.len()), (170, 0, 50, 220));
    let counts = [written.stored, written.removed, written.unchanged, written.added, written.deleted];
    assert_eq!(counts, [50, 20, 100, 20, 10]);
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&held), Some(2)));
    // The next look of a watch has clones of the same options.
    let open = proxy.connections();
    let (written, requests) = patch(&prefix, &proxy, &options, edits.clone(), 3);
    assert_eq!((written.stored, requests.len(), proxy.connections()), (0, 170, open));
    // What a reader saw before the sink had the target to itself counts for nothing.
    let handle = prefix.runtime.handle().clone();
    let mut reader = BucketReader::open(prefix.location.clone(), options.clone(), &tree().template, handle).unwrap();
    read_all(&mut reader, &[edits[0].id()], |_, _| Ok::<(), ReadError>(())).unwrap();
    proxy.take_seen();
    edit(prefix.sink_with(options.clone(), tree()).unwrap(), edits[..1].to_vec(), 4).unwrap();
    assert!(proxy.take_seen().iter().any(|seen| seen.method == "HEAD"));
    // After a failure everything is opened anew.
    options.shared.reset();
    patch(&prefix, &proxy, &options, edits, 5);
    assert!(proxy.connections() > open);
}

#[test]
fn large_tiles_are_in_flight_by_their_bytes() {
    let prefix = Prefix::new();
    let large: Tiles = tiles(12, 1)
        .into_iter()
        .map(|(tile, mut bytes)| {
            bytes.resize(9 << 20, 7);
            (tile, bytes)
        })
        .collect();
    let slow = |seen: &crate::support::proxy::Seen| {
        if seen.is_tile() { Fault::Slow(Duration::from_millis(50)) } else { Fault::None }
    };
    let proxy = Proxy::before(&prefix.endpoint, slow);
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let (_, finished) = run(sink, &large, 1).unwrap();
    assert_eq!(finished.in_flight.unwrap().peak, 3, "27 MB of 32");
    assert_eq!(prefix.tiles(), named(&large));
}

#[test]
fn a_tile_that_may_not_be_looked_at_ends_the_run_before_the_manifest() {
    let prefix = Prefix::new();
    let (before, edits, held) = edits();
    run(prefix.sink(), &before, 1).unwrap();
    let proxy = Proxy::before(&prefix.endpoint, |seen| {
        if seen.method == "HEAD" { Fault::Error(403, "AccessDenied", "no") } else { Fault::None }
    });
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let refused = edit(sink, edits.clone(), 2).unwrap_err().to_string();
    let place = format!("not allowed to read {}", prefix.location);
    assert!(refused.starts_with(&place) && refused.contains("\"s3:GetObject\""), "{refused}");
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&before), Some(1)));
    edit(prefix.sink(), edits, 3).unwrap();
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&held), Some(3)));
}

#[test]
fn a_stop_while_tiles_are_looked_at_ends_the_run() {
    let prefix = Prefix::new();
    let (before, edits, _) = edits();
    run(prefix.sink(), &before, 1).unwrap();
    let stop = Stop::new();
    let asking = stop.clone();
    let proxy = Proxy::before(&prefix.endpoint, move |seen| {
        if seen.method != "HEAD" {
            return Fault::None;
        }
        asking.ask(Signal::Interrupt);
        Fault::Slow(Duration::from_secs(5))
    });
    let (location, handle) = (prefix.location.clone(), prefix.runtime.handle().clone());
    let sink = BucketTiles::create(location, options(&proxy.endpoint), tree(), handle, &stop).unwrap();
    let refused = edit(sink, edits, 2).unwrap_err();
    assert_eq!(refused.kind(), oar_tiles::error::ErrorKind::Interrupted, "{refused}");
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&before), Some(1)));
}

fn key(prefix: &Prefix) -> ObjectKey {
    format!("{}a.pmtiles", prefix.location).parse().unwrap()
}

fn archive(prefix: &Prefix, endpoint: &str) -> BucketPmtiles {
    BucketPmtiles::create(&key(prefix), options(endpoint), prefix.runtime.handle().clone(), &Stop::new()).unwrap()
}

#[test]
fn an_archive_that_somebody_replaces_or_that_is_none_ends_the_run() {
    let prefix = Prefix::new();
    prefix.put("a.pmtiles", b"PMTiles and so on");
    let sink = archive(&prefix, &prefix.endpoint);
    prefix.put("a.pmtiles", b"PMTiles and so forth");
    let refused = edit(sink, Vec::new(), 2).unwrap_err().to_string();
    let place = format!("{}a.pmtiles", prefix.location);
    assert!(refused.starts_with(&format!("{place} was changed by somebody else during the run")), "{refused}");
    let refused = edit(archive(&prefix, &prefix.endpoint), Vec::new(), 2).unwrap_err();
    assert!(matches!(refused, BucketError::Archive(_)));
    let text = "is damaged: its header is cut off: 20 of 127 bytes are there. Seed or copy it again";
    assert_eq!(refused.to_string(), format!("{place} {text}"));
}
