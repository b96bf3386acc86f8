//! Edits of a large archive in S3: the server copies what stays, and whatever fails, the old archive or the new one is
//! there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use oar_tiles::stop::{Signal, Stop};
use oar_tiles::target::{
    BucketArchive, BucketError, BucketObject, BucketOptions, BucketPmtiles, ObjectKey, Pmtiles, ReadError, Sink as _,
    TileEdit, TileReader as _, WrittenAnew, read_all,
};
use oar_tiles::tile::Order;

use crate::s3::archives::uploads;
use crate::s3::edits::{Tiles, edit, put};
use crate::support::proxy::{Fault, Proxy, Seen};
use crate::support::s3::{Prefix, metadata, options, options_with, tiles, tileset};
use crate::support::until;

fn key(prefix: &Prefix) -> ObjectKey {
    format!("{}a.pmtiles", prefix.location).parse().unwrap()
}

fn archive(prefix: &Prefix, options: BucketOptions, stop: &Stop) -> BucketPmtiles {
    BucketPmtiles::create(&key(prefix), options, prefix.runtime.handle().clone(), stop).unwrap()
}

/// Tiles in the order of an archive, 20 MB altogether.
fn large() -> Tiles {
    static LARGE: LazyLock<Tiles> = LazyLock::new(|| {
        let (mut tiles, mut chance) = (tiles(300, 1), fastrand::Rng::with_seed(1));
        for (_, bytes) in &mut tiles {
            *bytes = vec![0; 68_000];
            chance.fill(bytes);
        }
        tiles.sort_by_key(|(tile, _)| Order::Hilbert.sort_key(*tile));
        tiles
    });
    LARGE.clone()
}

/// A file with an archive of the large tiles.
pub(super) fn large_archive(folder: &tempfile::TempDir) -> std::path::PathBuf {
    let path = folder.path().join("a.pmtiles");
    let mut local = Pmtiles::create(&path, &Stop::new()).unwrap();
    local.begin(&tileset("f")).unwrap();
    local.write(large().iter().map(put).collect()).unwrap();
    local.finish(&metadata("f", 1)).unwrap();
    path
}

/// The same, and the same archive in the bucket.
fn seeded(prefix: &Prefix, folder: &tempfile::TempDir) -> std::path::PathBuf {
    let path = large_archive(folder);
    let handle = prefix.runtime.handle().clone();
    let archive = BucketArchive::begin(&key(prefix), options(&prefix.endpoint), handle, &Stop::new()).unwrap();
    archive.upload(&path).unwrap();
    path
}

/// Changes of three tiles; one is as long as before, and one is removed.
fn changes() -> Vec<TileEdit> {
    let all = large();
    let reversed = all[101].1.iter().rev().copied().collect();
    vec![
        TileEdit::Put(all[7].0.into(), vec![1; 50].into()),
        TileEdit::Put(all[100].0.into(), all[100].1.clone().into()),
        TileEdit::Put(all[101].0.into(), reversed),
        TileEdit::Remove(all[250].0.into()),
    ]
}

/// The tiles after these changes.
fn changed() -> Tiles {
    let mut all = large();
    all[7].1 = vec![1; 50];
    all[101].1.reverse();
    all.remove(250);
    all
}

/// Asserts that an archive in the bucket is sound and holds these tiles.
#[track_caller]
fn holds(prefix: &Prefix, expected: &Tiles) {
    let object = BucketObject::open(&key(prefix), options(&prefix.endpoint), prefix.runtime.handle().clone()).unwrap();
    let mut reader = object.pmtiles().unwrap();
    assert_eq!(reader.check().unwrap(), Vec::<String>::new());
    let ids: Vec<_> = expected.iter().map(|(tile, _)| (*tile).into()).collect();
    assert_eq!(reader.list().unwrap(), ids);
    let mut expected = expected.iter();
    read_all(&mut reader, &ids, |id, bytes| {
        assert!(bytes.as_deref() == expected.next().map(|(_, bytes)| &**bytes), "{id}");
        Ok::<_, ReadError>(())
    })
    .unwrap();
}

fn is_copy(seen: &Seen) -> bool {
    seen.head.to_ascii_lowercase().contains("x-amz-copy-source:")
}

/// True for a request that asks which parts the server has.
fn is_list(seen: &Seen) -> bool {
    seen.method == "GET" && seen.target.contains("uploadId=")
}

fn has_condition(seen: &Seen) -> bool {
    seen.head.to_ascii_lowercase().contains("x-amz-copy-source-if-match:")
}

#[test]
fn what_stays_of_an_archive_is_copied_on_the_server_and_the_rest_is_that_of_an_edited_file() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    let path = seeded(&prefix, &folder);
    let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
    let (written, finished) = edit(archive(&prefix, options(&proxy.endpoint), &Stop::new()), changes(), 2).unwrap();
    assert_eq!((written.stored, written.unchanged, finished.deleted, finished.anew), (2, 1, 1, None));
    let seen = proxy.take_seen();
    let of_parts: Vec<&Seen> = seen.iter().filter(|seen| seen.target.contains("partNumber")).collect();
    let copies: Vec<&&Seen> = of_parts.iter().filter(|seen| is_copy(seen)).collect();
    // 20.4 MB in parts of 5 MiB: the first begins with the new header, the last holds the end of the old tiles.
    assert_eq!((of_parts.len(), copies.len()), (4, 2));
    for range in ["bytes=5242880-10485759", "bytes=10485760-15728639"] {
        let of_range = |head: &str| head.contains(range) && head.contains("x-amz-copy-source-if-match: \"");
        assert!(copies.iter().any(|copy| of_range(&copy.head.to_ascii_lowercase())), "{copies:?}");
    }
    // The header, the directories, the first part, the last one, and two neighbours that are as long as they were.
    let of_archive = |seen: &&Seen| seen.method == "GET" && seen.target.contains("/a.pmtiles");
    let (lists, reads): (Vec<&Seen>, Vec<&Seen>) = seen.iter().filter(of_archive).partition(|seen| is_list(seen));
    // The lengths of all parts are asked for once.
    assert_eq!((reads.len(), lists.len()), (5, 1));
    let head = prefix.client.head_object().bucket(&prefix.location.bucket).key(key(&prefix).key);
    let head = prefix.runtime.block_on(head.send()).unwrap();
    assert_eq!(
        (head.content_type(), head.metadata().unwrap()["owner"].as_str()),
        (Some("application/vnd.pmtiles"), "maps")
    );

    edit(Pmtiles::create(&path, &Stop::new()).unwrap(), changes(), 2).unwrap();
    assert!(prefix.objects()["a.pmtiles"] == std::fs::read(&path).unwrap());
    holds(&prefix, &changed());
    // Once more, and back: the old tiles are appended anew.
    let back: Vec<TileEdit> = [7, 101, 250].map(|at: usize| put(&large()[at])).into();
    edit(archive(&prefix, options(&proxy.endpoint), &Stop::new()), back.clone(), 3).unwrap();
    assert_eq!(proxy.take_seen().iter().filter(|seen| is_copy(seen)).count(), 2);
    holds(&prefix, &large());
    edit(Pmtiles::create(&path, &Stop::new()).unwrap(), back, 3).unwrap();
    assert!(prefix.objects()["a.pmtiles"] == std::fs::read(&path).unwrap());
}

#[test]
fn the_server_copies_parts_while_the_others_are_read() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    seeded(&prefix, &folder);
    let copies = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&copies);
    let proxy = Proxy::before(&prefix.endpoint, move |seen| {
        counted.fetch_add(usize::from(is_copy(seen)), Ordering::Relaxed);
        // The bytes of the first part that stay.
        if seen.method == "GET" && seen.head.contains("-5242879") { Fault::Held } else { Fault::None }
    });
    std::thread::scope(|scope| {
        scope.spawn(|| edit(archive(&prefix, options(&proxy.endpoint), &Stop::new()), changes(), 2).unwrap());
        until("all copies are asked for", || proxy.held() == 1 && copies.load(Ordering::Relaxed) == 2);
        proxy.let_go();
    });
    holds(&prefix, &changed());
}

#[test]
fn an_edit_of_much_is_downloaded_and_written_anew() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    seeded(&prefix, &folder);
    let mut expected = large();
    // Two thirds of the bytes, handed over in pieces: it turns out on the way.
    expected[..200].iter_mut().for_each(|(_, bytes)| bytes.reverse());
    let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
    let mut sink = archive(&prefix, options(&proxy.endpoint), &Stop::new());
    sink.begin(&crate::s3::edits::staying()).unwrap();
    for piece in expected[..200].chunks(30) {
        sink.write(piece.iter().map(put).collect()).unwrap();
    }
    assert_eq!(sink.finish(&metadata("f", 2)).unwrap().anew, Some(WrittenAnew::ManyChanges));
    assert!(!proxy.take_seen().iter().any(is_copy));
    holds(&prefix, &expected);
    // Less: it turns out at the end, because too many bytes would be dead.
    expected[..140].iter_mut().for_each(|(_, bytes)| bytes.reverse());
    let edits = expected[..140].iter().map(put).collect();
    let (_, finished) = edit(archive(&prefix, options(&proxy.endpoint), &Stop::new()), edits, 3).unwrap();
    assert!(matches!(finished.anew, Some(WrittenAnew::Dead(_))), "{:?}", finished.anew);
    assert!(!proxy.take_seen().iter().any(is_copy));
    holds(&prefix, &expected);
    let object = BucketObject::open(&key(&prefix), options(&prefix.endpoint), prefix.runtime.handle().clone()).unwrap();
    assert_eq!(object.pmtiles().unwrap().describe().unwrap().dead.unwrap().bytes, 0);
}

#[test]
fn a_comparison_of_many_tiles_is_not_one_request_for_each() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    seeded(&prefix, &folder);
    let mut expected = large();
    expected[280].1.reverse();
    let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
    let mut sink = archive(&prefix, options(&proxy.endpoint), &Stop::new());
    sink.begin(&crate::s3::edits::staying()).unwrap();
    // Every second tile, so that each is far from the next. All but one are equal.
    let edits: Vec<TileEdit> = expected.iter().step_by(2).map(put).collect();
    for piece in edits.chunks(10) {
        sink.write(piece.to_vec()).unwrap();
    }
    assert_eq!(sink.finish(&metadata("f", 2)).unwrap().anew, Some(WrittenAnew::ManyRequests));
    let reads =
        proxy.take_seen().iter().filter(|seen| seen.method == "GET" && seen.target.contains("/a.pmtiles")).count();
    // 64 and the rest of their piece, three before, three for the whole.
    assert!((65..=80).contains(&reads), "{reads}");
    holds(&prefix, &expected);
}

#[test]
fn a_server_that_copies_no_parts_gets_the_whole_archive() {
    for (fault, is_for_good) in [
        (Fault::Error(501, "NotImplemented", "no"), true),
        (Fault::Error(403, "AccessDenied", "no"), true),
        // These may pass; the last one is an answer without an ETag.
        (Fault::Error(400, "InvalidArgument", "no"), false),
        (Fault::Error(404, "NoSuchKey", "no"), false),
        (Fault::Error(500, "InternalError", "no"), false),
        (Fault::Error(200, "InternalError", "no"), false),
        (Fault::Taken, false),
    ] {
        let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
        seeded(&prefix, &folder);
        let proxy = Proxy::before(&prefix.endpoint, move |seen| if is_copy(seen) { fault } else { Fault::None });
        let options = options_with(&proxy.endpoint, |section| section.attempts = 1);
        let (written, finished) = edit(archive(&prefix, options.clone(), &Stop::new()), changes(), 2).unwrap();
        assert_eq!((written.stored, written.unchanged, finished.deleted), (2, 1, 1));
        assert_eq!(finished.anew, Some(WrittenAnew::NoCopies));
        let mut seen = proxy.take_seen();
        assert!(seen.iter().any(is_copy));
        holds(&prefix, &changed());
        assert_eq!(uploads(&prefix), 0);
        edit(archive(&prefix, options, &Stop::new()), changes(), 3).unwrap();
        let again = proxy.take_seen();
        assert_eq!(again.iter().any(is_copy), !is_for_good, "{fault:?}");
        seen.extend(again);
        // Only what says that it is not implemented may be the condition.
        let is_without = |seen: &Seen| is_copy(seen) && !has_condition(seen);
        assert_eq!(seen.iter().any(is_without), matches!(fault, Fault::Error(501, ..)), "{fault:?}");
        holds(&prefix, &changed());
    }
}

#[test]
fn a_server_that_copies_other_bytes_than_were_asked_for_or_does_not_say_how_many_gets_the_whole_archive() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    seeded(&prefix, &folder);
    let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
    // As a server does that does not know the range: the whole object is a part.
    let ignores_range = {
        let (client, handle) = (prefix.client.clone(), prefix.runtime.handle().clone());
        let (bucket, key) = (prefix.location.bucket.clone(), key(&prefix).key);
        move |seen: &Seen| {
            if !is_copy(seen) || !seen.target.contains("partNumber=2") {
                return Fault::None;
            }
            let id = seen.target.split(['?', '&']).find_map(|word| word.strip_prefix("uploadId=")).unwrap();
            let copy = client.upload_part_copy().bucket(&bucket).key(&key).upload_id(id).part_number(2);
            let copied = handle.block_on(copy.copy_source(format!("{bucket}/{key}")).send()).unwrap();
            let tag = copied.copy_part_result().unwrap().e_tag().unwrap();
            let answer = format!("<CopyPartResult><ETag>{tag}</ETag></CopyPartResult>");
            Fault::Answered(Box::leak(answer.into_boxed_str()))
        }
    };
    proxy.rule(ignores_range);
    let options = options(&proxy.endpoint);
    edit(archive(&prefix, options.clone(), &Stop::new()), changes(), 2).unwrap();
    assert!(proxy.take_seen().iter().any(is_list));
    holds(&prefix, &changed());
    assert_eq!(uploads(&prefix), 0);
    edit(archive(&prefix, options, &Stop::new()), changes(), 3).unwrap();
    assert!(!proxy.take_seen().iter().any(is_copy), "once is enough");
    // It may not be asked, or an empty list is its answer, or the same page again and again.
    let page = "<ListPartsResult><IsTruncated>true</IsTruncated><NextPartNumberMarker>1</NextPartNumberMarker><Part><PartNumber>1</PartNumber><Size>5242880</Size></Part></ListPartsResult>";
    for fault in [Fault::Error(403, "AccessDenied", "no"), Fault::Answered("<ListPartsResult/>"), Fault::Answered(page)]
    {
        let proxy = Proxy::before(&prefix.endpoint, move |seen| if is_list(seen) { fault } else { Fault::None });
        let back = [7, 101, 250].map(|at: usize| put(&large()[at])).into();
        edit(archive(&prefix, options_with(&proxy.endpoint, |_| {}), &Stop::new()), back, 4).unwrap();
        assert!(proxy.take_seen().iter().any(is_list), "{fault:?}");
        holds(&prefix, &large());
        assert_eq!(uploads(&prefix), 0);
        edit(archive(&prefix, options_with(&prefix.endpoint, |_| {}), &Stop::new()), changes(), 5).unwrap();
    }
}

#[test]
fn a_server_that_knows_no_conditions_of_copies_copies_without_and_a_strangers_archive_stays() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    seeded(&prefix, &folder);
    let refuses = move |seen: &Seen| {
        if has_condition(seen) { Fault::Error(501, "NotImplemented", "no conditions") } else { Fault::None }
    };
    let proxy = Proxy::before(&prefix.endpoint, refuses);
    let options = options(&proxy.endpoint);
    edit(archive(&prefix, options.clone(), &Stop::new()), changes(), 2).unwrap();
    assert_eq!(proxy.take_seen().iter().filter(|seen| is_copy(seen) && !has_condition(seen)).count(), 2);
    holds(&prefix, &changed());
    // Asked once; now somebody replaces the archive by one of the same length, before anything is copied.
    let old = prefix.objects().remove("a.pmtiles").unwrap();
    let mut others = old.clone();
    *others.last_mut().unwrap() ^= 1;
    let mut sink = archive(&prefix, options, &Stop::new());
    sink.begin(&crate::s3::edits::staying()).unwrap();
    sink.write(vec![put(&large()[250])]).unwrap();
    let (mut client, bytes) = (Some(prefix.client.clone()), others.clone());
    let (bucket, key, handle) = (prefix.location.bucket.clone(), key(&prefix).key, prefix.runtime.handle().clone());
    proxy.rule(move |seen| {
        // What is read before comes from the old archive, or the run would end there.
        if is_copy(seen)
            && let Some(client) = client.take()
        {
            let put = client.put_object().bucket(&bucket).key(&key).body(bytes.clone().into());
            handle.block_on(put.send()).unwrap();
        }
        Fault::None
    });
    let error = sink.finish(&metadata("f", 3)).unwrap_err().to_string();
    assert!(error.contains("was changed by somebody else during the run"), "{error}");
    assert!(!proxy.take_seen().iter().any(has_condition));
    assert!(prefix.objects()["a.pmtiles"] == others);
    assert_eq!(uploads(&prefix), 0);
}

#[test]
fn nothing_of_a_failed_edit_stays() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    seeded(&prefix, &folder);
    for (status, code) in [(503, "SlowDown"), (403, "ExpiredToken"), (412, "PreconditionFailed")] {
        let proxy = Proxy::before(&prefix.endpoint, move |seen| {
            if is_copy(seen) && seen.target.contains("partNumber=3") {
                Fault::Error(status, code, "no")
            } else {
                Fault::None
            }
        });
        let options = options_with(&proxy.endpoint, |section| section.attempts = 1);
        let error = edit(archive(&prefix, options, &Stop::new()), changes(), 2).unwrap_err();
        assert_eq!(matches!(error, BucketError::Changed { .. }), status == 412, "{error}");
        holds(&prefix, &large());
        assert_eq!(uploads(&prefix), 0);
    }
    // Somebody else was faster, before the first copy and after the last one.
    let old = prefix.objects().remove("a.pmtiles").unwrap();
    let others = [&old[..], b"more"].concat();
    let mut sink = archive(&prefix, options(&prefix.endpoint), &Stop::new());
    sink.begin(&crate::s3::edits::staying()).unwrap();
    sink.write(changes()).unwrap();
    prefix.put("a.pmtiles", &others);
    let error = sink.finish(&metadata("f", 2)).unwrap_err().to_string();
    assert!(error.contains("was changed by somebody else during the run"), "{error}");
    assert!(prefix.objects()["a.pmtiles"] == others);
    assert_eq!(uploads(&prefix), 0);
    // Or has deleted it, or aborted the upload.
    for (is_upload, text) in [
        (false, "a.pmtiles was deleted by somebody else during the run"),
        (true, "is not there any more: somebody else, or"),
    ] {
        prefix.put("a.pmtiles", &old);
        let proxy = Proxy::before(&prefix.endpoint, move |seen| {
            let is_last = seen.method == "POST" && seen.target.contains("uploadId=");
            if is_upload && is_last { Fault::Error(404, "NoSuchUpload", "no") } else { Fault::None }
        });
        let mut sink = archive(&prefix, options(&proxy.endpoint), &Stop::new());
        sink.begin(&crate::s3::edits::staying()).unwrap();
        sink.write(changes()).unwrap();
        if !is_upload {
            let delete = prefix.client.delete_object().bucket(&prefix.location.bucket).key(key(&prefix).key);
            prefix.runtime.block_on(delete.send()).unwrap();
        }
        let error = sink.finish(&metadata("f", 2)).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
        assert_eq!(prefix.objects().contains_key("a.pmtiles"), is_upload);
        assert_eq!(uploads(&prefix), 0);
    }
    prefix.put("a.pmtiles", &old);
    // A stop in the middle.
    let stop = Stop::new();
    let of_rule = stop.clone();
    let proxy = Proxy::before(&prefix.endpoint, move |seen| {
        if is_copy(seen) {
            of_rule.ask(Signal::Terminate);
            return Fault::Slow(std::time::Duration::from_secs(1));
        }
        Fault::None
    });
    let error = edit(archive(&prefix, options(&proxy.endpoint), &stop), changes(), 2).unwrap_err();
    assert_eq!(error.kind(), oar_tiles::error::ErrorKind::Interrupted, "{error}");
    assert!(prefix.objects()["a.pmtiles"] == old);
    assert_eq!(uploads(&prefix), 0);
}

#[test]
fn whichever_request_is_the_last_the_old_archive_or_the_new_one_is_there() {
    let (prefix, folder) = (Prefix::new(), tempfile::tempdir().unwrap());
    seeded(&prefix, &folder);
    let old = prefix.objects().remove("a.pmtiles").unwrap();
    let mut ends = Vec::new();
    for last in 1.. {
        // From then on the server is away: to the process that is as if it were killed.
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let proxy = Proxy::before(&prefix.endpoint, move |_| {
            let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
            match number.cmp(&last) {
                std::cmp::Ordering::Less => Fault::None,
                // Done, but nobody hears of it.
                std::cmp::Ordering::Equal => Fault::Lost,
                std::cmp::Ordering::Greater => Fault::Reset,
            }
        });
        let options = options_with(&proxy.endpoint, |section| section.attempts = 1);
        let (key, handle) = (key(&prefix), prefix.runtime.handle().clone());
        let done = BucketPmtiles::create(&key, options, handle, &Stop::new()).and_then(|sink| edit(sink, changes(), 2));
        if done.is_ok() {
            break;
        }
        let is_old = prefix.objects()["a.pmtiles"] == old;
        holds(&prefix, &if is_old { large() } else { changed() });
        ends.push(is_old);
        if !is_old {
            prefix.put("a.pmtiles", &old);
        }
    }
    // Only the last request makes the new archive.
    assert!(ends.len() >= 12 && ends[..ends.len() - 1].iter().all(|is_old| *is_old), "{ends:?}");
    edit(archive(&prefix, options(&prefix.endpoint), &Stop::new()), changes(), 3).unwrap();
    holds(&prefix, &changed());
}
