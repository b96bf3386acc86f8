//! What servers and networks do to a run: it rides it out, or ends with a message and a manifest that did not move.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oar_tiles::stop::{Signal, Stop};
use oar_tiles::target::{BucketError, BucketLocation, BucketOptions, S3Keys, Sink as _};

use crate::support::proxy::{Fault, Proxy, SLOW_DOWN, Seen};
use crate::support::s3::{
    Prefix, edits, metadata, named, options, options_with, reader_keys, run, tiles, tileset, tree,
};
use crate::support::until;

/// What happens to each request.
type Rule = fn(&Seen) -> Fault;

/// An error with its cause, as the program prints it.
fn told(error: &BucketError) -> String {
    let cause = std::error::Error::source(error).map_or_else(String::new, |cause| format!(" ← {cause}"));
    format!("{error}{cause}")
}

#[test]
fn a_server_that_fails_now_and_then_is_ridden_out() {
    let rules: [(&str, Rule); 5] = [
        ("500", |seen| if seen.number % 5 == 4 { Fault::Error(500, "InternalError", "again") } else { Fault::None }),
        ("reset", |seen| if seen.number % 7 == 6 { Fault::Reset } else { Fault::None }),
        ("lost answers", |seen| if seen.number % 9 == 8 { Fault::Lost } else { Fault::None }),
        ("truncated answers", |seen| if seen.number % 3 == 2 { Fault::Truncated } else { Fault::None }),
        ("slow", |_| Fault::Slow(Duration::from_millis(20))),
    ];
    for (name, rule) in rules {
        let prefix = Prefix::new();
        run(prefix.sink(), &tiles(150, 1), 1).unwrap();
        let proxy = Proxy::before(&prefix.endpoint, rule);
        // Where every third answer is cut short, one request in 3^12 runs out of attempts.
        let sink = prefix
            .sink_with(options_with(&proxy.endpoint, |s3| s3.attempts = 12), tree())
            .unwrap_or_else(|error| panic!("{name}: {}", told(&error)));
        let all = tiles(120, 2);
        let (written, finished) = run(sink, &all, 2).unwrap_or_else(|error| panic!("{name}: {}", told(&error)));
        assert_eq!((written.stored, finished.deleted), (120, 30), "{name}");
        assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&all), Some(2)), "{name}");
    }
}

#[test]
fn a_storm_of_slow_down_is_ridden_out() {
    let prefix = Prefix::new();
    let begun = Instant::now();
    let proxy = Proxy::before(&prefix.endpoint, {
        let (mut storm, mut since) = (0, None);
        move |seen| {
            // After the first hundred tiles, everything is refused for a second, and every third request for two more.
            if !seen.is_tile() {
                return Fault::None;
            }
            storm += 1;
            // It begins with the hundredth, however slow the machine is.
            if storm == 100 {
                since = Some(Instant::now());
            }
            let age = since.map_or(0, |since| since.elapsed().as_millis());
            match storm {
                0..100 => Fault::None,
                _ if age < 1_500 || (age < 3_500 && storm % 3 == 0) => SLOW_DOWN,
                _ => Fault::None,
            }
        }
    });
    let settings = options_with(&proxy.endpoint, |s3| s3.attempts = 12);
    let sink = prefix.sink_with(settings, tree()).unwrap();
    let all = tiles(1_000, 1);
    run(sink, &all, 1).unwrap_or_else(|error| panic!("{}", told(&error)));
    let refused = proxy.take_seen().iter().filter(|seen| seen.is_tile()).count() - 1_000;
    eprintln!("rode out {refused} refusals in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(refused >= 10, "{refused}");
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&all), Some(1)));
}

#[test]
fn keys_that_cannot_be_written_are_named_and_the_next_run_writes_them() {
    let prefix = Prefix::new();
    run(prefix.sink(), &tiles(200, 1), 1).unwrap();
    let proxy = Proxy::before(&prefix.endpoint, |seen| {
        let bad = ["/6/0/7.pbf", "/6/1/9.pbf", "/6/2/11.pbf"].iter().any(|name| seen.target.contains(name));
        if seen.method == "PUT" && bad { Fault::Error(403, "AccessDenied", "Access Denied.") } else { Fault::None }
    });
    let all = tiles(200, 2);
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let error = run(sink, &all, 2).unwrap_err();
    let BucketError::Incomplete { missing, first, .. } = &error else { panic!("{error}") };
    assert_eq!(*missing, 3);
    let mut first = first.clone();
    first.sort();
    assert_eq!(
        first,
        ["6/0/7.pbf", "6/1/9.pbf", "6/2/11.pbf"].map(|name| format!("{name} (HTTP 403 AccessDenied: Access Denied)"))
    );
    let text = error.to_string();
    let (place, end) =
        (&prefix.location, "the manifest is unchanged. Run the command again; only what is missing is sent");
    assert!(
        text.starts_with(&format!("3 objects of {place} could not be written or deleted, the first are 6/")),
        "{text}"
    );
    assert!(text.ends_with(end), "{text}");
    assert_eq!(prefix.manifest_run(), Some(1));
    proxy.rule(|_| Fault::None);
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let (written, _) = run(sink, &all, 3).unwrap();
    assert_eq!((written.stored, written.unchanged), (3, 197), "only what is missing is sent");
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&all), Some(3)));
}

#[test]
fn a_run_on_which_everything_fails_gives_up_early() {
    let prefix = Prefix::new();
    let proxy = Proxy::before(&prefix.endpoint, |seen| {
        if seen.is_tile() { Fault::Error(403, "AccessDenied", "Access Denied.") } else { Fault::None }
    });
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let error = run(sink, &tiles(2_000, 1), 1).unwrap_err();
    let BucketLocation { bucket, prefix: begin, .. } = &prefix.location;
    let text = told(&error);
    assert!(text.starts_with(&format!("not allowed to write s3://{bucket}/{begin}6/")), "{text}");
    assert!(
        text.ends_with(&format!(
            ".pbf: a policy has to allow \"s3:PutObject\" on \"arn:aws:s3:::{bucket}/{begin}*\" ← HTTP 403 AccessDenied: Access Denied"
        )),
        "{text}"
    );
    let asked = proxy.take_seen().iter().filter(|seen| seen.is_tile()).count();
    assert!((100..300).contains(&asked), "{asked}");
    assert_eq!(prefix.manifest_run(), None);
}

#[test]
fn credentials_that_expire_in_the_middle_end_the_run_and_the_next_goes_on() {
    let prefix = Prefix::new();
    let proxy = Proxy::before(&prefix.endpoint, |seen| {
        if seen.number > 60 {
            Fault::Error(400, "ExpiredToken", "The provided token has expired.")
        } else {
            Fault::None
        }
    });
    let all = tiles(200, 1);
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let error = run(sink, &all, 1).unwrap_err();
    let text = told(&error);
    assert!(text.starts_with(&format!("the credentials for {}6/", prefix.location)), "{text}");
    assert!(
        text.ends_with(
            "have expired: log in again, or use ones that last longer, and run the command again; it goes on where it stopped ← HTTP 400 ExpiredToken: The provided token has expired"
        ),
        "{text}"
    );
    let there = prefix.tiles().len() as u64;
    assert!(there > 0 && there < 200, "{there}");
    assert_eq!(prefix.manifest_run(), None);
    // The lease could not be given back; it is ours by the process that holds it, so its end is waited for.
    let lease = prefix.note(".oar-tiles/lease.json").unwrap();
    let mut released = lease.clone();
    released["expires"] = 0.into();
    prefix.put(".oar-tiles/lease.json", released.to_string().as_bytes());
    let (written, _) = run(prefix.sink(), &all, 2).unwrap();
    // What was under way when the run ended may have come through after the count.
    assert!(written.unchanged >= there && written.unchanged < 200 && written.total() == 200, "{there} {written:?}");
}

#[test]
fn a_run_that_is_killed_or_stopped_goes_on_the_next_time() {
    let prefix = Prefix::new();
    let all = tiles(300, 1);
    // Killed: nothing is given back, nothing is waited for.
    let killed = crate::support::s3::runtime();
    let short = options_with(&prefix.endpoint, |s3| s3.lease = Duration::from_secs(3).into());
    let create = |handle, options, stop: &Stop| {
        oar_tiles::target::BucketTiles::create(prefix.location.clone(), options, tree(), handle, stop)
    };
    let mut sink = create(killed.handle().clone(), short.clone(), &Stop::new()).unwrap();
    sink.begin(&tileset("f")).unwrap();
    sink.write(edits(&all)[..3].concat()).unwrap();
    killed.shutdown_background();
    std::mem::forget(sink);
    let error = prefix.sink_with(short, tree()).unwrap_err();
    assert!(matches!(error, BucketError::Held { .. }), "{error}");

    // Stopped in the middle: the lease is given back.
    let (stop, mut sink) = (Stop::new(), None);
    until("the lease of the killed run has ended", || {
        sink = create(prefix.runtime.handle().clone(), options(&prefix.endpoint), &stop).ok();
        sink.is_some()
    });
    let mut sink = sink.unwrap();
    sink.begin(&tileset("f")).unwrap();
    let mut last = Ok(());
    for (number, edits) in edits(&all).into_iter().enumerate() {
        if number == 4 {
            stop.ask(Signal::Interrupt);
        }
        last = sink.write(edits).map(|_| ());
        if last.is_err() {
            break;
        }
    }
    let text = last.unwrap_err().to_string();
    assert_eq!(text, format!("interrupted while writing {}: run the command again and it goes on", prefix.location));
    drop(sink);
    let there = prefix.tiles().len() as u64;
    assert!((100..300).contains(&there), "{there}");
    let (written, _) = run(prefix.sink(), &all, 1).unwrap();
    // What was under way when the run ended may have come through after the count.
    let sent_again = written.stored > 300 - there;
    assert!(
        !sent_again && written.stored > 0 && written.total() == 300,
        "what was right is not sent again: {written:?}"
    );
    assert_eq!((prefix.tiles(), prefix.manifest_run()), (named(&all), Some(1)));
}

#[test]
fn what_is_wrong_is_said_with_the_next_step() {
    let prefix = Prefix::new();
    let good = options(&prefix.endpoint);
    let (endpoint, BucketLocation { bucket, prefix: begin, .. }) = (&prefix.endpoint, &prefix.location);
    let lease = format!("s3://{bucket}/{begin}.oar-tiles/lease.json");
    let try_with = |options: BucketOptions| told(&prefix.sink_with(options, tree()).unwrap_err());
    let create = |location: &str, options: BucketOptions| {
        let handle = prefix.runtime.handle().clone();
        told(
            &oar_tiles::target::BucketTiles::create(location.parse().unwrap(), options, tree(), handle, &Stop::new())
                .unwrap_err(),
        )
    };

    assert_eq!(
        create("s3://no-such-bucket/x/", good.clone()),
        format!(
            "there is no bucket \"no-such-bucket\" at {endpoint}: create it, or correct --output or [s3] endpoint ← HTTP 404 NoSuchBucket: The specified bucket does not exist"
        )
    );
    let keys = S3Keys { key: "nobody".to_owned(), secret: "x".to_owned(), session: None };
    assert_eq!(
        try_with(BucketOptions { keys: Some(keys), ..good.clone() }),
        format!(
            "{endpoint} refuses the credentials for {lease}: check the access key, its secret and [s3] profile ← HTTP 403 InvalidAccessKeyId: The access key ID you provided does not exist in our records"
        )
    );
    assert_eq!(
        try_with(BucketOptions { keys: Some(reader_keys()), ..good.clone() }),
        format!(
            "not allowed to write {lease}: a policy has to allow \"s3:PutObject\" on \"arn:aws:s3:::{bucket}/{begin}*\" ← HTTP 403 AccessDenied: Access Denied"
        )
    );
    // A port on which nobody listens.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = try_with(options_with(&format!("http://{nobody}"), |s3| s3.attempts = 2));
    let expected =
        format!("cannot reach http://{nobody} to read {lease}: check [s3] endpoint, the network and the proxy ← ");
    assert!(text.starts_with(&expected) && text.contains("Connection refused"), "{text}");

    // What the server of the tests never says.
    let cases: [(Fault, &str, &str); 7] = [
        (
            Fault::Error(400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-west-1'"),
            "the bucket \"{bucket}\" is not in the region us-east-1: set [s3] region to eu-west-1",
            "HTTP 400 AuthorizationHeaderMalformed: the region 'us-east-1' is wrong; expecting 'eu-west-1'",
        ),
        (
            Fault::Error(301, "PermanentRedirect", "elsewhere"),
            "the bucket \"{bucket}\" is not in the region us-east-1: set [s3] region to the bucket's own",
            "HTTP 301 PermanentRedirect: elsewhere",
        ),
        (
            Fault::Error(403, "RequestTimeTooSkewed", "The difference is too large."),
            "{endpoint} says that this machine's clock is wrong: set it (by NTP), then run the command again",
            "HTTP 403 RequestTimeTooSkewed: The difference is too large",
        ),
        (
            Fault::Error(403, "AccessDenied", "no"),
            "not allowed to read {lease}: a policy has to allow \"s3:GetObject\" on \"arn:aws:s3:::{bucket}/{begin}*\" and \"s3:ListBucket\" on \"arn:aws:s3:::{bucket}\"",
            "HTTP 403 AccessDenied: no",
        ),
        (
            SLOW_DOWN,
            "{endpoint} asks to slow down and did not take the request to read {lease} in 2 attempts: run the command again later, or lower [s3] in_flight",
            "HTTP 503 SlowDown: Please reduce your request rate",
        ),
        (
            Fault::Slow(Duration::from_millis(600)),
            "{endpoint} did not answer in time when asked to read {lease}: run the command again, or raise [s3] attempt_timeout and request_timeout",
            "",
        ),
        (
            Fault::Error(500, "InternalError", "oh"),
            "{endpoint} failed to read {lease}: look at the cause, then run the command again",
            "HTTP 500 InternalError: oh",
        ),
    ];
    for (fault, message, cause) in cases {
        let proxy = Proxy::before(endpoint, move |_| fault);
        let patient = Duration::from_millis(300);
        let text = try_with(options_with(&proxy.endpoint, |s3| {
            (s3.attempts, s3.attempt_timeout) = (2, patient.into());
        }));
        let message = message.replace("{bucket}", bucket).replace("{endpoint}", &proxy.endpoint);
        let message = message.replace("{lease}", &lease).replace("{begin}", begin);
        assert!(text.starts_with(&format!("{message} ← {cause}")), "{text}\nbut not\n{message} ← {cause}");
    }
    // Settings are refused before anything is asked.
    let odd = options_with(endpoint, |s3| s3.notes_cache_control = "a\nb".to_owned());
    assert_eq!(try_with(odd), "[s3] notes_cache_control = \"a\\nb\" is no header: write letters of ASCII");
    assert_eq!(
        try_with(options("minio:9000")),
        "[s3] endpoint = \"minio:9000\" is no address: write https://host or http://host:port"
    );
}

#[test]
fn keys_are_never_printed() {
    let text = format!("{:?}", options("http://127.0.0.1:1"));
    assert!(text.contains("S3Keys(…)") && !text.contains(&std::env::var("TEST_S3_SECRET").unwrap()), "{text}");
}

#[test]
fn listing_and_deleting_that_are_denied_name_the_policy() {
    let prefix = Prefix::new();
    run(prefix.sink(), &tiles(5, 1), 1).unwrap();
    let BucketLocation { bucket, prefix: begin, .. } = &prefix.location;
    let denied = Fault::Error(403, "AccessDenied", "Access Denied.");
    let proxy = Proxy::before(
        &prefix.endpoint,
        move |seen| if seen.target.contains("list-type") { denied } else { Fault::None },
    );
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    assert_eq!(
        run(sink, &[], 2).unwrap_err().to_string(),
        format!(
            "not allowed to list s3://{bucket}/{begin}: a policy has to allow \"s3:ListBucket\" on \"arn:aws:s3:::{bucket}\""
        )
    );
    proxy.rule(move |seen| if seen.method == "POST" { denied } else { Fault::None });
    let sink = prefix.sink_with(options(&proxy.endpoint), tree()).unwrap();
    let error = run(sink, &[], 2).unwrap_err();
    assert!(
        matches!(&error, BucketError::Incomplete { missing: 5, first, .. } if first[0].contains("AccessDenied")),
        "{error}"
    );
    assert_eq!((prefix.tiles().len(), prefix.manifest_run()), (5, Some(1)));
}

#[test]
fn four_times_the_limit_gives_close_to_four_times_the_rate() {
    // Server, proxy and program share the processors, some milliseconds a request: a few requests keep them free, so
    // that the latency is what one waits for. Without optimization 5 ms of the program's own would hide 20.
    let limits = [2_usize, 8];
    let (latency, count) = if cfg!(debug_assertions) { (150, 100) } else { (20, 1_000) };
    let mut rates = BTreeMap::new();
    for limit in limits {
        let prefix = Prefix::new();
        let proxy = Proxy::before(&prefix.endpoint, move |seen| {
            if seen.is_tile() { Fault::Slow(Duration::from_millis(latency)) } else { Fault::None }
        });
        let settings = options_with(&proxy.endpoint, |s3| s3.in_flight = limit.try_into().unwrap());
        let sink = prefix.sink_with(settings, tree()).unwrap();
        let flights = sink.flights();
        run(sink, &tiles(count, 1), 1).unwrap();
        let seen = flights.seen();
        let rate = f64::from(count) / seen.time.as_secs_f64();
        eprintln!("{limit} in flight: {rate:.0} tiles/s, mean {:.1}, peak {}", seen.mean, seen.peak);
        assert_eq!((seen.peak as usize, seen.requests), (limit, u64::from(count)));
        assert!(seen.mean > limit as f64 * 0.8, "the limit is kept for the whole run: {seen:?}");
        rates.insert(limit, rate);
    }
    let ratio = rates[&limits[1]] / rates[&limits[0]];
    eprintln!("ratio {ratio:.2}");
    assert!(ratio > 2.5, "{rates:?}");
}

#[test]
fn a_manifest_that_somebody_else_replaced_is_left_alone() {
    let prefix = Prefix::new();
    run(prefix.sink(), &tiles(3, 1), 1).unwrap();
    let mut sink = prefix.sink();
    sink.begin(&tileset("f")).unwrap();
    prefix.put("metadata.json", b"{\"name\":\"other\"}");
    let error = sink.finish(&metadata("f", 2)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}metadata.json was changed by somebody else during the run: it is left alone. See that only one program writes this target, then run the command again",
            prefix.location
        )
    );
    assert_eq!(prefix.objects()["metadata.json"], b"{\"name\":\"other\"}");
}
