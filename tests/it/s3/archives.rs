//! An archive in S3: readers see the old one or the new one, and nothing of a failed upload stays.

use std::process::Command;

use oar_tiles::stop::{Signal, Stop};
use oar_tiles::target::{
    BucketArchive, BucketError, BucketObject, BucketOptions, BucketPmtiles, ObjectKey, Sink as _, TileReader as _,
};
use oar_tiles::tile::{Order, TileId};

use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::{Prefix, edits, metadata, options, tiles, tileset};

fn key(prefix: &Prefix) -> ObjectKey {
    format!("{}a.pmtiles", prefix.location).parse().unwrap()
}

fn begin(prefix: &Prefix, options: BucketOptions, stop: &Stop) -> Result<BucketArchive, BucketError> {
    BucketArchive::begin(&key(prefix), options, prefix.runtime.handle().clone(), stop)
}

/// A file that differs from the next one in every block.
fn file(folder: &tempfile::TempDir, megabytes: usize, seed: u32) -> (std::path::PathBuf, Vec<u8>) {
    let bytes: Vec<u8> = (0..megabytes << 18)
        .flat_map(|word| (word as u32).wrapping_mul(2_654_435_761).wrapping_add(seed).to_le_bytes())
        .collect();
    let path = folder.path().join(format!("{seed}"));
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

/// Uploads in parts that the bucket remembers below the prefix.
pub(crate) fn uploads(prefix: &Prefix) -> usize {
    let list = prefix.client.list_multipart_uploads().bucket(&prefix.location.bucket).prefix(&prefix.location.prefix);
    prefix.runtime.block_on(list.send()).unwrap().uploads().len()
}

#[test]
fn a_large_file_goes_up_in_parts_and_a_small_one_at_once() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    for (megabytes, parts) in [(1, 0), (12, 3)] {
        let (path, bytes) = file(&folder, megabytes, 1);
        let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
        let place = begin(&prefix, options(&proxy.endpoint), &Stop::new()).unwrap().upload(&path).unwrap();
        assert_eq!(place, format!("{}a.pmtiles", prefix.location));
        let seen = proxy.take_seen();
        assert_eq!(seen.iter().filter(|seen| seen.target.contains("partNumber")).count(), parts);
        assert!(prefix.objects()["a.pmtiles"] == bytes);
        let head = prefix.client.head_object().bucket(&prefix.location.bucket).key(key(&prefix).key);
        let head = prefix.runtime.block_on(head.send()).unwrap();
        assert_eq!((head.content_type(), head.content_encoding()), (Some("application/vnd.pmtiles"), None));
        assert_eq!(head.metadata().unwrap()["owner"], "maps");

        let object =
            BucketObject::open(&key(&prefix), options(&prefix.endpoint), prefix.runtime.handle().clone()).unwrap();
        let end = object.length();
        assert_eq!(end, bytes.len() as u64);
        for (offset, length) in [(0, 16), (end / 2, 100_000), (end - 5, 5), (end - 5, 100), (end, 1)] {
            let expected = &bytes[offset as usize..((offset + length).min(end)) as usize];
            assert!(object.read_at(offset, length).unwrap() == expected, "{offset} {length}");
        }
        // A reader that began with the old archive does not get bytes of the new one.
        prefix.put("a.pmtiles", &bytes[1..]);
        let error = object.read_at(0, 16).unwrap_err().to_string();
        assert!(error.contains("it was replaced while it was read"), "{error}");
    }
}

#[test]
fn nothing_of_a_failed_upload_stays() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    let (path, _) = file(&folder, 12, 2);
    prefix.put("a.pmtiles", b"old");
    // A part that is never taken.
    let proxy = Proxy::before(&prefix.endpoint, |seen| {
        if seen.target.contains("partNumber=2") { Fault::Error(403, "AccessDenied", "no") } else { Fault::None }
    });
    let error = begin(&prefix, options(&proxy.endpoint), &Stop::new()).unwrap().upload(&path).unwrap_err();
    assert!(error.to_string().contains("a policy has to allow \"s3:PutObject\""), "{error}");
    assert!(proxy.take_seen().iter().any(|seen| seen.target.contains("partNumber=1")));
    assert_eq!((uploads(&prefix), prefix.objects()["a.pmtiles"].as_slice()), (0, b"old".as_slice()));
    // A stop in the middle.
    let stop = Stop::new();
    let of_rule = stop.clone();
    let proxy = Proxy::before(&prefix.endpoint, move |seen| {
        if seen.target.contains("partNumber=2") {
            of_rule.ask(Signal::Terminate);
            return Fault::Slow(std::time::Duration::from_secs(1));
        }
        Fault::None
    });
    let error = begin(&prefix, options(&proxy.endpoint), &stop).unwrap().upload(&path).unwrap_err();
    assert_eq!(error.kind(), oar_tiles::error::ErrorKind::Interrupted, "{error}");
    assert_eq!((uploads(&prefix), prefix.objects()["a.pmtiles"].as_slice()), (0, b"old".as_slice()));
    // Somebody else was faster.
    for megabytes in [1, 12] {
        let (path, _) = file(&folder, megabytes, 3);
        let archive = begin(&prefix, options(&prefix.endpoint), &Stop::new()).unwrap();
        prefix.put("a.pmtiles", format!("other {megabytes}").as_bytes());
        let error = archive.upload(&path).unwrap_err();
        assert!(matches!(error, BucketError::Changed { .. }), "{error}");
        assert_eq!(prefix.objects()["a.pmtiles"], format!("other {megabytes}").as_bytes());
        assert_eq!(uploads(&prefix), 0);
    }
}

#[test]
fn an_upload_whose_last_answer_is_lost_is_found_to_be_complete() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    for megabytes in [1, 12] {
        let (path, bytes) = file(&folder, megabytes, 4);
        let mut first = true;
        let proxy = Proxy::before(&prefix.endpoint, move |seen| {
            let last = seen.target.contains("uploadId=") && seen.method == "POST"
                || seen.method == "PUT" && !seen.target.contains("uploadId=");
            if last && std::mem::take(&mut first) { Fault::Lost } else { Fault::None }
        });
        begin(&prefix, options(&proxy.endpoint), &Stop::new()).unwrap().upload(&path).unwrap();
        assert!(prefix.objects()["a.pmtiles"] == bytes, "{megabytes}");
        assert_eq!(uploads(&prefix), 0);
    }
}

#[test]
fn a_pmtiles_archive_is_written_to_and_read_from_a_bucket() {
    let prefix = Prefix::new();
    let handle = prefix.runtime.handle().clone();
    let mut all = tiles(300, 1);
    all.sort_by_key(|(tile, _)| Order::Hilbert.sort_key(*tile));
    let mut sink =
        BucketPmtiles::create(&key(&prefix), options(&prefix.endpoint), handle.clone(), &Stop::new()).unwrap();
    sink.begin(&tileset("f")).unwrap();
    for edits in edits(&all) {
        sink.write(edits).unwrap();
    }
    assert!(prefix.objects().is_empty(), "nothing is seen before the end");
    let finished = sink.finish(&metadata("f", 1)).unwrap();
    assert_eq!(finished.place, format!("{}a.pmtiles", prefix.location));
    let object = BucketObject::open(&key(&prefix), options(&prefix.endpoint), handle).unwrap();
    let mut reader = object.pmtiles().unwrap();
    let ids: Vec<TileId> = all.iter().map(|(tile, _)| (*tile).into()).collect();
    assert_eq!(reader.list().unwrap().len(), 300);
    let read = reader.read(&ids).unwrap();
    for ((tile, bytes), read) in all.iter().zip(read) {
        assert_eq!(read.as_deref(), Some(&**bytes), "{tile}");
    }
    // By other people's reader.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pmtiles");
    std::fs::write(&path, &prefix.objects()["a.pmtiles"]).unwrap();
    let script = "
import sys
from pmtiles.reader import Reader, MmapSource, all_tiles
print(sum(1 for _ in all_tiles(MmapSource(open(sys.argv[1], 'rb')))))";
    let python = Command::new(std::env::var("TEST_PYTHON").unwrap()).args(["-c", script]).arg(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&python.stdout).trim(), "300", "{}", String::from_utf8_lossy(&python.stderr));
}
