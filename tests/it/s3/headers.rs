//! The headers of tiles, with what each tile fills in; the pass that gives them to tiles that are there.

use std::collections::BTreeMap;

use oar_tiles::target::{BucketError, BucketNotes, BucketOptions, HeaderNote, RewrittenHeaders};
use oar_tiles::tile::{TileTextNames, TilesetTag};

use crate::support::proxy::{Fault, Proxy, Seen};
use crate::support::s3::{Prefix, named, options, run, tiles, tree};

/// Options under which tiles carry tags.
fn tagged(endpoint: &str) -> BucketOptions {
    let mut options = options(endpoint);
    options.names = TileTextNames { tag: TilesetTag::of("n"), layers: Vec::new() };
    let tags = [("cache-tag", "{name},{band}"), ("address", "{z}/{x}/{y}")];
    options.metadata.extend(tags.map(|(name, text)| (name.to_owned(), text.parse().unwrap())));
    options
}

fn note(prefix: &Prefix) -> Option<HeaderNote> {
    let handle = prefix.runtime.handle().clone();
    HeaderNote::read(&BucketNotes::of_prefix(prefix.location.clone(), options(&prefix.endpoint), handle)).unwrap()
}

/// Every tile carries its own tags beside every other header.
fn all_are_tagged(prefix: &Prefix, count: usize) {
    let found: BTreeMap<String, String> = prefix.tile_headers();
    assert_eq!(found.len(), count);
    for (name, headers) in found {
        let mut parts = name.trim_end_matches(".pbf").split('/').map(|part| part.parse::<u32>().unwrap());
        let (z, x, y) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert_eq!(z, 6);
        let expected = format!(
            "application/vnd.mapbox-vector-tile|gzip|public, max-age=86400 address={z}/{x}/{y} cache-tag=n,n-5-{}-{} owner=maps",
            x / 2,
            y / 2
        );
        assert_eq!(headers, expected, "{name}");
    }
}

#[test]
fn a_first_seed_tags_every_tile_and_says_so() {
    let prefix = Prefix::new();
    run(prefix.sink_with(tagged(&prefix.endpoint), tree()).unwrap(), &tiles(200, 1), 1).unwrap();
    all_are_tagged(&prefix, 200);
    assert!(note(&prefix).unwrap().is_complete);
    // Other headers: what is equal is not written again, so from now on not every tile carries the same.
    let mut other = tagged(&prefix.endpoint);
    other.metadata.insert("more".to_owned(), "{name}".parse().unwrap());
    run(prefix.sink_with(other, tree()).unwrap(), &tiles(200, 1), 2).unwrap();
    assert!(!note(&prefix).unwrap().is_complete);
    // And back again: nobody knows which tile carries which.
    run(prefix.sink_with(tagged(&prefix.endpoint), tree()).unwrap(), &tiles(201, 1), 3).unwrap();
    assert!(!note(&prefix).unwrap().is_complete);
}

#[test]
fn without_tags_in_the_configuration_there_is_no_note() {
    let prefix = Prefix::new();
    run(prefix.sink(), &tiles(3, 1), 1).unwrap();
    assert_eq!(note(&prefix), None);
}

#[test]
fn a_pass_gives_every_tile_the_headers_and_goes_on_where_it_was_interrupted() {
    let (prefix, all) = (Prefix::new(), tiles(1_100, 1));
    run(prefix.sink(), &all, 1).unwrap();
    // The tags are configured, and a run writes some tiles with them.
    let mut changed = all.clone();
    changed[7].1.push(b'!');
    run(prefix.sink_with(tagged(&prefix.endpoint), tree()).unwrap(), &changed, 2).unwrap();
    assert!(!note(&prefix).unwrap().is_complete, "1,099 tiles carry none");
    let mut copies = 0;
    let proxy = Proxy::before(&prefix.endpoint, move |request| {
        copies += usize::from(request.is_tile());
        if copies > 1_020 && request.is_tile() { Fault::Error(403, "AccessDenied", "not you") } else { Fault::None }
    });
    let sink = prefix.sink_with(tagged(&proxy.endpoint), tree()).unwrap();
    let error = sink.rewrite_headers(&[]).unwrap_err();
    assert!(error.to_string().contains("s3:PutObject"), "{error}");
    let interrupted = note(&prefix).unwrap();
    assert!(!interrupted.is_complete && interrupted.after.is_some(), "{interrupted:?}");
    // While it is under way nobody else writes.
    let holder = prefix.sink_with(tagged(&prefix.endpoint), tree()).unwrap();
    let error = prefix.sink_with(tagged(&prefix.endpoint), tree()).unwrap_err();
    assert!(matches!(error, BucketError::Held { .. }), "{error}");
    drop(holder);
    // An answer that was lost, and a tile that somebody replaced after it was listed.
    let mut number = 0;
    proxy.rule(move |request| {
        number += usize::from(request.is_tile());
        if request.is_tile() && number % 100 == 1 { Fault::Lost } else { Fault::None }
    });
    let done = prefix.sink_with(tagged(&proxy.endpoint), tree()).unwrap().rewrite_headers(&[]).unwrap();
    assert!(done.before >= 900 && done.before + done.rewritten == 1_100, "{done:?}");
    all_are_tagged(&prefix, 1_100);
    assert_eq!(prefix.tiles(), named(&changed), "the bytes stay as they were");
    assert!(note(&prefix).unwrap().is_complete);
    // Each copy is bound to the object that was seen, and sends every header.
    let copies: Vec<_> = proxy.take_seen().into_iter().filter(Seen::is_tile).collect();
    let is_whole = |head: &str| {
        let head = head.to_lowercase();
        ["x-amz-copy-source-if-match: \"", "x-amz-metadata-directive: replace", "x-amz-storage-class: standard_ia"]
            .iter()
            .all(|part| head.contains(part))
    };
    assert!(copies.iter().all(|request| is_whole(&request.head)), "{}", copies[0].head);
    // Once more: it begins anew, and changes nothing.
    let again = prefix.sink_with(tagged(&prefix.endpoint), tree()).unwrap().rewrite_headers(&[]).unwrap();
    assert_eq!(again, RewrittenHeaders { rewritten: 1_100, before: 0 });
}
