//! A target in S3 is brought in line: what differs is written, what vanished is deleted, nothing else is touched.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use oar_tiles::target::{
    BucketReader, Compression, Encryption, Publishing, Sink, TargetSection, Template, TileEdit, TileReader, Tileset,
    TreeOptions,
};
use oar_tiles::tile::{Coverage, LayerId, Scope, Slice, TileId};

use crate::support::proxy::{Fault, Proxy};
use crate::support::s3::{
    Prefix, coord, edits, metadata, named, options, options_with, run, run_of, tiles, tileset, tree,
};

#[test]
fn tiles_are_read_back_byte_for_byte() {
    let prefix = Prefix::new();
    let all = tiles(1_100, 1);
    let (written, finished) = run(prefix.sink(), &all, 1).unwrap();
    assert_eq!((written.stored, written.unchanged, written.removed, finished.deleted), (1_100, 0, 0, 0));
    assert_eq!(finished.place, prefix.location.to_string());
    assert_eq!(prefix.tiles(), named(&all));
    assert_eq!(prefix.manifest_run(), Some(1));
    let other = Template::new("elsewhere/{z}/{x}/{y}").unwrap();
    let handle = prefix.runtime.handle().clone();
    let mut reader = BucketReader::open(prefix.location.clone(), options(&prefix.endpoint), &other, handle).unwrap();
    assert_eq!(reader.describe().unwrap().name.as_deref(), Some("facilities"));
    let listed = reader.list().unwrap();
    assert_eq!(listed.len(), 1_100, "more than a page");
    let mut ids: Vec<TileId> = all.iter().map(|(tile, _)| (*tile).into()).collect();
    ids.push(coord(0, 0, 0).into());
    let read = reader.read(&ids).unwrap();
    for ((tile, bytes), read) in all.iter().zip(&read) {
        assert_eq!(read.as_deref(), Some(&**bytes), "{tile}");
    }
    assert_eq!(read.last(), Some(&None));
}

#[test]
fn a_run_over_an_equal_target_sends_no_tile() {
    let prefix = Prefix::new();
    let all = tiles(300, 1);
    run(prefix.sink(), &all, 1).unwrap();
    let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let (written, finished) = run(sink, &all, 2).unwrap();
    assert_eq!((written.stored, written.unchanged, finished.deleted), (0, 300, 0));
    let seen = proxy.take_seen();
    assert_eq!(seen.iter().filter(|request| request.is_tile() || request.method == "POST").count(), 0);
    let puts = seen.iter().filter(|request| request.method == "PUT").count();
    assert_eq!(
        puts, 7,
        "the lease: taken, its conditions proved by two that fail, noted, confirmed, released; the manifest; TileJSON is as it was: {seen:#?}"
    );
    assert_eq!(prefix.manifest_run(), Some(2));
}

#[test]
fn what_differs_is_written_and_what_vanished_is_deleted() {
    let prefix = Prefix::new();
    let before = tiles(400, 1);
    run(prefix.sink(), &before, 1).unwrap();
    let mut now = tiles(400, 1);
    for (_, bytes) in now.iter_mut().step_by(10) {
        bytes.push(b'!');
    }
    // 30 vanish without a word, 10 render to nothing, one is new.
    let removed: Vec<_> = now.drain(100..110).collect();
    now.drain(200..230);
    let mut sink = prefix.sink();
    sink.begin(&tileset("f")).unwrap();
    let mut written = sink.write(edits(&now[..100]).concat()).unwrap();
    written += sink.write(removed.iter().map(|(tile, _)| TileEdit::Remove((*tile).into())).collect()).unwrap();
    written += sink.write(edits(&now[100..]).concat()).unwrap();
    written += sink.write(vec![TileEdit::Put(coord(7, 0, 0).into(), b"new".as_slice().into())]).unwrap();
    let finished = sink.finish(&metadata("f", 2)).unwrap();
    let changed = now.iter().filter(|(_, bytes)| bytes.ends_with(b"!")).count() as u64;
    assert_eq!((written.stored, written.removed, finished.deleted), (changed + 1, 10, 40));
    assert_eq!(written.unchanged, 360 - changed);
    now.push((coord(7, 0, 0), b"new".to_vec()));
    assert_eq!(prefix.tiles(), named(&now));
}

#[test]
fn other_zooms_other_boxes_and_other_peoples_keys_are_left_alone() {
    let prefix = Prefix::new();
    let all = tiles(100, 1);
    run(prefix.sink(), &all, 1).unwrap();
    let foreign = ["readme.txt", "6/0/0.pbf.bak", "6/0/0.png", "6/99/0.pbf", "fonts/a/0-255.pbf", ".oar-tiles/own.txt"];
    for name in foreign {
        prefix.put(name, b"mine");
    }
    // Only the columns of zoom 6 from 1 on, which has 36 of the 100 tiles; and nothing comes.
    let scope = Scope { zooms: "6".parse().unwrap(), coverage: Coverage::new(&["-174,-80,180,85".parse().unwrap()]) };
    let part = Tileset { scope, ..tileset("f") };
    let held = all.iter().filter(|(tile, _)| part.scope.holds((*tile).into())).count() as u64;
    assert!(held > 0 && held < 100, "{held}");
    let (_, finished) = run_of(prefix.sink(), &part, &[], 2).unwrap();
    assert_eq!(finished.deleted, held);
    let zoom = Tileset { scope: Scope { zooms: "7".parse().unwrap(), coverage: Coverage::new(&[]) }, ..tileset("f") };
    assert_eq!(run_of(prefix.sink(), &zoom, &[], 3).unwrap().1.deleted, 0);
    let objects = prefix.objects();
    for name in foreign {
        assert_eq!(objects[name], b"mine", "{name}");
    }
    let left = objects.keys().filter(|name| all.iter().any(|(tile, _)| format!("{tile}.pbf") == **name)).count();
    assert_eq!(left as u64, 100 - held);
}

#[test]
fn more_than_a_thousand_tiles_vanish_in_two_requests() {
    let prefix = Prefix::new();
    run(prefix.sink(), &tiles(1_200, 1), 1).unwrap();
    let proxy = Proxy::before(&prefix.endpoint, |_| Fault::None);
    // On a machine that is busy, a thousand deletions take their time: a second attempt would count as a third request.
    let minute = std::time::Duration::from_secs(60);
    let patient = options_with(&proxy.endpoint, |s3| s3.attempt_timeout = minute.into());
    let sink = prefix.sink_with(patient, tree()).unwrap();
    assert_eq!(run(sink, &[], 2).unwrap().1.deleted, 1_200);
    let deletes = proxy.take_seen().iter().filter(|request| request.method == "POST").count();
    assert_eq!((deletes, prefix.tiles().len()), (2, 0));
}

#[test]
fn a_server_without_batched_deletes_deletes_one_by_one() {
    let prefix = Prefix::new();
    run(prefix.sink(), &tiles(5, 1), 1).unwrap();
    let proxy = Proxy::before(&prefix.endpoint, |seen| match &*seen.method {
        "POST" => Fault::Error(501, "NotImplemented", "no such thing"),
        _ => Fault::None,
    });
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    assert_eq!(run(sink, &[], 2).unwrap().1.deleted, 5);
    assert_eq!(prefix.tiles().len(), 0);
}

#[test]
fn a_target_of_another_tileset_or_of_somebody_else_is_refused() {
    let prefix = Prefix::new();
    run(prefix.sink(), &tiles(10, 1), 1).unwrap();
    let error = run_of(prefix.sink(), &tileset("other"), &tiles(10, 2), 2).unwrap_err();
    let place = prefix.location.to_string();
    assert_eq!(
        error.to_string(),
        format!(
            "{place} holds another tileset (or this one with other settings): nothing was written. Choose another --output, or replace the tiles there with --force"
        )
    );
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&tiles(10, 1)), Some(1)));
    let force = TreeOptions { force: true, ..tree() };
    let sink = prefix.sink_with(options(&prefix.endpoint), force.clone()).unwrap();
    run_of(sink, &tileset("other"), &tiles(10, 2), 2).unwrap();
    assert_eq!(prefix.tiles(), named(&tiles(10, 2)));

    let foreign = Prefix::new();
    foreign.put("3/1/1.pbf", b"mine");
    let error = run(foreign.sink(), &tiles(10, 1), 1).unwrap_err();
    let place = foreign.location.to_string();
    assert_eq!(
        error.to_string(),
        format!(
            "{place} holds 3/1/1.pbf, which oar-tiles did not write: nothing was written. Choose another --output, or replace what is there with --force"
        )
    );
    assert_eq!(foreign.tiles().len(), 1);
    // The refused run has left a lease, which makes nothing ours.
    assert!(run(foreign.sink(), &tiles(10, 1), 1).is_err());
    let sink = foreign.sink_with(options(&foreign.endpoint), force).unwrap();
    assert_eq!(run(sink, &tiles(10, 1), 1).unwrap().1.deleted, 1);

    let metadata = Prefix::new();
    metadata.put("metadata.json", b"{\"name\":\"somebody's\"}");
    let error = run(metadata.sink(), &tiles(1, 1), 1).unwrap_err();
    assert!(error.to_string().contains("holds metadata.json, which oar-tiles did not write"), "{error}");
}

#[test]
fn objects_say_what_they_are() {
    let prefix = Prefix::new();
    let all = [(coord(2, 1, 1), b"shallow".to_vec()), (coord(5, 1, 1), b"deep".to_vec())];
    run(prefix.sink(), &all, 1).unwrap();
    // By other people's program.
    let script = "
import boto3, json, os, sys
from botocore.config import Config
s3 = boto3.client('s3', endpoint_url=os.environ['TEST_S3_ENDPOINT'], aws_access_key_id=os.environ['TEST_S3_KEY'],
    aws_secret_access_key=os.environ['TEST_S3_SECRET'], region_name='us-east-1', config=Config(s3={'addressing_style': 'path'}))
heads = {}
for name in sys.argv[3:]:
    head = s3.get_object(Bucket=sys.argv[1], Key=sys.argv[2] + name)
    heads[name] = [head.get(key) for key in ['ContentType', 'ContentEncoding', 'CacheControl', 'Metadata', 'StorageClass']]
    heads[name].append(len(head['Body'].read()))
print(json.dumps(heads))";
    let python = Command::new(std::env::var("TEST_PYTHON").unwrap())
        .args(["-c", script, &prefix.location.bucket, &prefix.location.prefix])
        .args(["2/1/1.pbf", "5/1/1.pbf", "metadata.json", "tiles.json"])
        .output()
        .unwrap();
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let heads: serde_json::Value = serde_json::from_slice(&python.stdout).unwrap();
    let owner = serde_json::json!({ "owner": "maps" });
    let mvt = "application/vnd.mapbox-vector-tile";
    assert_eq!(heads["2/1/1.pbf"], serde_json::json!([mvt, "gzip", "public, max-age=60", owner, "STANDARD_IA", 7]));
    assert_eq!(heads["5/1/1.pbf"], serde_json::json!([mvt, "gzip", "public, max-age=86400", owner, "STANDARD_IA", 4]));
    for note in ["metadata.json", "tiles.json"] {
        assert_eq!(heads[note][0], "application/json");
        assert_eq!(heads[note][2], "public, max-age=5");
    }
    let plain = Prefix::new();
    let uncompressed = TargetSection { compression: Compression::None, ..TargetSection::default() };
    let sink = plain.sink_with(options(&plain.endpoint), TreeOptions { section: uncompressed, ..tree() }).unwrap();
    run(sink, &all, 1).unwrap();
    let key = format!("{}5/1/1.pbf", plain.location.prefix);
    let head = plain.client.head_object().bucket(&plain.location.bucket).key(key);
    assert_eq!(plain.runtime.block_on(head.send()).unwrap().content_encoding(), None);
}

#[test]
fn encryption_is_asked_for_in_the_words_of_s3() {
    // The server of the tests keeps no keys; what was asked for is seen on the way.
    for (encryption, header) in [
        (Encryption::Aes256, "x-amz-server-side-encryption: aes256"),
        (Encryption::Kms { key: Some("k-1".to_owned()) }, "x-amz-server-side-encryption-aws-kms-key-id: k-1"),
    ] {
        let prefix = Prefix::new();
        let proxy = Proxy::before(&prefix.endpoint, |seen| match &*seen.method {
            "PUT" => Fault::Error(400, "InvalidRequest", "no"),
            _ => Fault::None,
        });
        let settings = options_with(&proxy.endpoint, |s3| s3.encryption = encryption);
        assert!(prefix.sink_with(settings, tree()).is_err());
        assert!(proxy.take_seen().iter().any(|seen| seen.head.to_lowercase().contains(header)), "{header}");
    }
}

#[test]
fn layers_may_be_kept_apart() {
    let prefix = Prefix::new();
    let template = Template::new("tile/{layer}/{z}/{x}/{-y}.pbf").unwrap();
    let mut sink = prefix.sink_with(options(&prefix.endpoint), TreeOptions { template, ..tree() }).unwrap();
    assert!(sink.needs().layers_apart);
    sink.begin(&Tileset { layers: vec!["a".to_owned(), "b c".to_owned()], ..tileset("f") }).unwrap();
    let id = |layer| TileId { coord: coord(3, 5, 1), slice: Slice::Layer(LayerId(layer)) };
    let put = |layer, text: &str| TileEdit::Put(id(layer), text.as_bytes().into());
    sink.write(vec![put(0, "one"), put(1, "two")]).unwrap();
    sink.finish(&metadata("f", 1)).unwrap();
    let names: BTreeSet<String> = prefix.tiles().into_keys().collect();
    assert_eq!(names, BTreeSet::from(["tile/a/3/5/6.pbf".to_owned(), "tile/b%20c/3/5/6.pbf".to_owned()]));
    let handle = prefix.runtime.handle().clone();
    let mut reader =
        BucketReader::open(prefix.location.clone(), options(&prefix.endpoint), &tree().template, handle).unwrap();
    assert_eq!(reader.read(&[id(1)]).unwrap(), [Some(b"two".as_slice().into())]);
}

#[test]
fn versions_are_switched_forth_and_back_and_old_ones_go() {
    let prefix = Prefix::new();
    let template = Template::new("{version}/{z}/{x}/{y}.pbf").unwrap();
    let publish = Publishing::Versioned { keep: 1, keep_for: Duration::ZERO };
    let versioned = TreeOptions { template, publish, ..tree() };
    let sink = || prefix.sink_with(options(&prefix.endpoint), versioned.clone()).unwrap();
    let version = || prefix.note("latest.json").unwrap()["version"].as_str().unwrap().to_owned();
    let shown = || prefix.note("tiles.json").unwrap()["tiles"][0].as_str().unwrap().to_owned();
    let mut versions = Vec::new();
    for number in 1..=3 {
        run(sink(), &tiles(20, number), number).unwrap();
        versions.push(version());
        assert_eq!(shown(), format!("{}/{{z}}/{{x}}/{{y}}.pbf", version()));
    }
    let of = |version: &str| prefix.tiles().keys().filter(|name| name.starts_with(&format!("{version}/"))).count();
    assert_eq!(versions.iter().map(|version| of(version)).collect::<Vec<_>>(), [0, 20, 20]);
    let oldest = format!("{}/", versions[0]);
    assert!(!prefix.objects().keys().any(|name| name.contains(&oldest)), "nothing of the oldest is left");

    let latest = sink().rollback(None).unwrap();
    assert_eq!((latest.version.as_str(), version().as_str()), (versions[1].as_str(), versions[1].as_str()));
    assert_eq!(shown(), format!("{}/{{z}}/{{x}}/{{y}}.pbf", versions[1]));
    assert_eq!(prefix.manifest_run(), Some(2));
    let error = sink().rollback(Some("never")).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot switch clients of {} to another version", prefix.location));
    sink().rollback(Some(&versions[2])).unwrap();
    assert_eq!((version(), prefix.manifest_run()), (versions[2].clone(), Some(3)));

    // A version that was begun goes on, and is not begun again.
    let all = tiles(20, 4);
    let mut broken = sink();
    broken.begin(&tileset("f")).unwrap();
    broken.write(edits(&all)[0][..10].to_vec()).unwrap();
    drop(broken);
    assert_eq!(version(), versions[2], "the map shows what it showed");
    let (written, _) = run(sink(), &all, 4).unwrap();
    assert!(written.stored <= 20 && written.total() == 20, "{written:?}");
    let folders: BTreeSet<String> =
        prefix.tiles().keys().map(|name| name.split('/').next().unwrap().to_owned()).collect();
    assert_eq!(folders, BTreeSet::from([versions[2].clone(), version()]), "none was begun twice");
}
