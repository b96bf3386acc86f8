//! What every sink, every editor and every place of notes promises holds in a container, too.

use oar_tiles::target::{BucketNotes, Publishing};

use crate::support::azure::{ArchiveInContainer, Container, InContainer};
use crate::support::targets::{tileset, tree, write};
use crate::targets::edit_contract::edits_keep_the_contract;
use crate::targets::kept_notes::keeps_notes;
use crate::targets::sink_contract::keeps_the_contract;

#[test]
fn a_prefix_of_a_container_keeps_the_contract() {
    keeps_the_contract(|| InContainer(Container::new(), tree("{z}/{x}/{y}.pbf", Publishing::InPlace)));
}

#[test]
fn a_versioned_prefix_of_a_container_keeps_the_contract() {
    let publish = Publishing::Versioned { keep: 1, keep_for: std::time::Duration::ZERO };
    keeps_the_contract(|| InContainer(Container::new(), tree("{layer}/{version}/{z}/{x}/{y}.pbf", publish)));
}

#[test]
fn an_archive_in_a_container_keeps_the_contract() {
    keeps_the_contract(|| ArchiveInContainer(Container::new()));
}

#[test]
fn edits_of_a_prefix_of_a_container_keep_the_contract() {
    edits_keep_the_contract(|| InContainer(Container::new(), tree("{z}/{x}/{y}.pbf", Publishing::InPlace)));
}

#[test]
fn edits_of_an_archive_in_a_container_keep_the_contract() {
    edits_keep_the_contract(|| ArchiveInContainer(Container::new()));
}

#[test]
fn notes_are_kept_in_a_container_below_a_prefix_and_beside_an_archive() {
    let container = Container::new();
    let (options, handle) = (Container::options(), container.runtime.handle().clone());
    keeps_notes(&BucketNotes::of_prefix(container.location.clone(), options.clone(), handle.clone()));
    keeps_notes(&BucketNotes::beside(&container.key("a.pmtiles"), options, handle));
    let blobs = container.blobs();
    assert!(blobs.contains_key(".oar-tiles/notes/a.json"), "{:?}", blobs.keys());
}

/// The `ETag` of a blob changes with each write, and says nothing of the bytes: their MD5 is kept with the blob.
#[test]
fn an_equal_tile_keeps_its_etag() {
    let target = InContainer(Container::new(), tree("{z}/{x}/{y}.pbf", Publishing::InPlace));
    let edits = crate::support::targets::edits(crate::support::targets::needs(&target), 0, |_| false);
    write(&target, &edits, &tileset("0-7", &[]), "first");
    let before = crate::support::targets::Target::stamps(&target);
    write(&target, &edits, &tileset("0-7", &[]), "second");
    assert!(before.len() > 50);
    assert_eq!(crate::support::targets::Target::stamps(&target), before);
}
