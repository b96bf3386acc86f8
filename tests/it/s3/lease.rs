//! One writer a target in S3: the lease, and what becomes of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oar_tiles::stop::Stop;
use oar_tiles::target::{BucketError, Sink as _};

use crate::support::proxy::{Fault, Proxy, Seen};
use crate::support::s3::{Prefix, edits, metadata, named, options, options_with, run, tiles, tileset, tree};

#[test]
fn the_lease_goes_to_one_of_sixteen() {
    let prefix = Prefix::new();
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let sink = prefix.sink_with(options(&prefix.endpoint), tree());
                outcomes.lock().unwrap().push(sink);
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    let winners = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    let held = outcomes.iter().filter(|outcome| matches!(outcome, Err(BucketError::Held { .. }))).count();
    assert_eq!((winners, held), (1, 15), "{outcomes:?}");
}

#[test]
fn a_second_run_is_told_who_holds_the_lease() {
    let prefix = Prefix::new();
    let first = prefix.sink();
    let text = prefix.sink_with(options(&prefix.endpoint), tree()).unwrap_err().to_string();
    let start = format!("another run is writing {}: oar-tiles {} on ", prefix.location, env!("CARGO_PKG_VERSION"));
    assert!(text.starts_with(&start), "{text}");
    assert!(text.contains(&format!(", process {}, since 20", std::process::id())), "{text}");
    assert!(
        text.contains("Z; its lease ends at 20") && text.ends_with("run the command again after that time"),
        "{text}"
    );
    drop(first);
    run(prefix.sink(), &tiles(3, 1), 1).unwrap();
    // After a run that ended well nobody holds it, but whose target it is stays known.
    let lease = prefix.note(".oar-tiles/lease.json").unwrap();
    assert_eq!((lease.get("holder"), lease["fingerprint"].as_str()), (None, Some("f")));
}

#[test]
fn a_lease_is_renewed_and_one_that_has_ended_is_taken_over() {
    let prefix = Prefix::new();
    let short = options_with(&prefix.endpoint, |s3| s3.lease = Duration::from_millis(900).into());
    let mut long = prefix.sink_with(short.clone(), tree()).unwrap();
    long.begin(&tileset("f")).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let error = prefix.sink_with(short.clone(), tree()).unwrap_err();
    assert!(matches!(error, BucketError::Held { .. }), "renewed: {error}");
    long.finish(&metadata("f", 1)).unwrap();

    let lost = crate::support::s3::runtime();
    let create = oar_tiles::target::BucketTiles::create;
    let dead = create(prefix.location.clone(), short.clone(), tree(), lost.handle().clone(), &Stop::new()).unwrap();
    lost.shutdown_background();
    std::mem::forget(dead);
    assert!(prefix.sink_with(short.clone(), tree()).is_err());
    std::thread::sleep(Duration::from_millis(950));
    run(prefix.sink_with(short, tree()).unwrap(), &tiles(3, 1), 2).unwrap();
    assert_eq!(prefix.manifest_run(), Some(2));
}

#[test]
fn a_run_whose_lease_was_stolen_ends_before_the_manifest() {
    let stolen = r#"{"holder":{"program":"oar-tiles 9","host":"thief","pid":1,"id":"x","since":"2026-01-01T00:00:00Z"},"expires":9999999999999,"fingerprint":"f"}"#;
    for renewed in [true, false] {
        let prefix = Prefix::new();
        run(prefix.sink(), &tiles(3, 1), 1).unwrap();
        let lease = Duration::from_millis(if renewed { 600 } else { 60_000 });
        let mut sink = prefix.sink_with(options_with(&prefix.endpoint, |s3| s3.lease = lease.into()), tree()).unwrap();
        sink.begin(&tileset("f")).unwrap();
        prefix.put(".oar-tiles/lease.json", stolen.as_bytes());
        let error = if renewed {
            // The next renewal finds it, and the next batch says it.
            std::thread::sleep(Duration::from_millis(500));
            sink.write(edits(&tiles(3, 2)).concat()).unwrap_err()
        } else {
            sink.write(edits(&tiles(3, 2)).concat()).unwrap();
            sink.finish(&metadata("f", 2)).unwrap_err()
        };
        assert_eq!(
            error.to_string(),
            format!(
                "the lease on {} was lost (oar-tiles 9 on thief, process 1, since 2026-01-01T00:00:00Z took it over): the manifest is unchanged. See that only one run writes this target, then run the command again",
                prefix.location
            )
        );
        assert_eq!(prefix.manifest_run(), Some(1));
        assert_eq!(prefix.note(".oar-tiles/lease.json").unwrap()["holder"]["host"], "thief", "it is left to the thief");
    }
}

/// True for a request that is to be served only under a condition.
fn is_conditional(seen: &Seen) -> bool {
    let head = seen.head.to_lowercase();
    head.contains("\r\nif-none-match:") || head.contains("\r\nif-match:")
}

#[test]
fn a_server_without_conditional_writes_is_refused_unless_the_settings_allow_it() {
    let prefix = Prefix::new();
    let proxy = Proxy::before(&prefix.endpoint, |seen| {
        if is_conditional(seen) {
            let what = "A header you provided implies functionality that is not implemented";
            Fault::Error(501, "NotImplemented", what)
        } else {
            Fault::None
        }
    });
    let all = tiles(20, 1);
    let refused = prefix.sink_with(options(&proxy.endpoint), tree()).map(drop).unwrap_err().to_string();
    let says = format!("{} does not honour conditional writes (it refuses them: ", proxy.endpoint);
    assert!(refused.starts_with(&says) && refused.contains("set conditional_writes = false in [s3]"), "{refused}");
    assert_eq!((prefix.tiles().len(), prefix.manifest_run()), (0, None));
    let allowed = options_with(&proxy.endpoint, |s3| s3.conditional_writes = false);
    run(prefix.sink_with(allowed, tree()).unwrap(), &all, 1).unwrap();
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&all), Some(1)));
}

#[test]
fn a_server_that_ignores_a_condition_is_found_out_before_anything_is_written() {
    for header in ["if-none-match", "if-match"] {
        let prefix = Prefix::new();
        let first = AtomicBool::new(true);
        let ignored = format!("\r\n{header}:");
        // The first write of the lease holds its condition; what the server then takes does not.
        let proxy = Proxy::before(&prefix.endpoint, move |seen| {
            let is_ignored = seen.method == "PUT" && seen.head.to_lowercase().contains(&ignored);
            let holds = header == "if-none-match" && is_ignored && first.swap(false, Ordering::Relaxed);
            if is_ignored && !holds { Fault::Taken } else { Fault::None }
        });
        let all = tiles(20, 1);
        for _ in 0..2 {
            let refused = prefix.sink_with(options(&proxy.endpoint), tree()).map(drop).unwrap_err().to_string();
            let name = if header == "if-match" { "If-Match" } else { "If-None-Match" };
            assert!(refused.contains(&format!("(it takes a write whose {name} does not hold)")), "{refused}");
            assert_eq!((prefix.tiles().len(), prefix.manifest_run()), (0, None));
            assert_eq!(
                prefix.note(".oar-tiles/lease.json").unwrap()["holder"],
                serde_json::Value::Null,
                "it is given back"
            );
            if header == "if-none-match" {
                break;
            }
        }
        // The server itself honours them.
        run(prefix.sink_with(options(&prefix.endpoint), tree()).unwrap(), &all, 1).unwrap();
        assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&all), Some(1)));
    }
}
