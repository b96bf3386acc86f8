//! Archives that are uploaded in parts, which Azure puts together without a condition: under a lease.

use std::path::PathBuf;

use oar_tiles::stop::Stop;
use oar_tiles::target::{BucketArchive, BucketError, BucketObject};

use crate::support::azure::Container;

/// A file that takes three parts.
fn long_file(folder: &tempfile::TempDir) -> (PathBuf, Vec<u8>) {
    let bytes: Vec<u8> = (0..12_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let path = folder.path().join("long");
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

fn begin(container: &Container) -> Result<BucketArchive, BucketError> {
    let handle = container.runtime.handle().clone();
    BucketArchive::begin(&container.key("t.pmtiles"), Container::options(), handle, &Stop::new())
}

#[test]
fn parts_become_the_file_in_order() {
    let (container, folder) = (Container::new(), tempfile::tempdir().unwrap());
    let (path, bytes) = long_file(&folder);
    begin(&container).unwrap().upload(&path).unwrap();
    assert!(container.blobs()["t.pmtiles"].bytes == bytes);
    let handle = container.runtime.handle().clone();
    let object = BucketObject::open(&container.key("t.pmtiles"), Container::options(), handle).unwrap();
    assert_eq!(
        (object.length(), object.read_at(5_242_870, 20).unwrap()),
        (12_000_000, bytes[5_242_870..5_242_890].to_vec())
    );
}

#[test]
fn one_run_at_a_time_writes_an_archive_and_its_lease_ends_with_it() {
    let (container, folder) = (Container::new(), tempfile::tempdir().unwrap());
    let first = begin(&container).unwrap();
    let refused = begin(&container).unwrap_err().to_string();
    assert!(refused.starts_with(&format!("another run is writing {}", container.place("t.pmtiles"))), "{refused}");
    drop(first);
    begin(&container).unwrap().upload(&long_file(&folder).0).unwrap();
    drop(begin(&container).unwrap());
}

#[test]
fn an_archive_that_somebody_else_replaced_meanwhile_stays_theirs() {
    let (container, folder) = (Container::new(), tempfile::tempdir().unwrap());
    let (path, _) = long_file(&folder);
    let begun = begin(&container).unwrap();
    container.put("t.pmtiles", b"theirs");
    let refused = begun.upload(&path).unwrap_err();
    assert!(matches!(refused, BucketError::Changed { .. }), "{refused}");
    assert_eq!(container.blobs()["t.pmtiles"].bytes, b"theirs");
}
