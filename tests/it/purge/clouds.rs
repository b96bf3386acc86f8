//! The requests that providers get, against stubs written from their documentation: checked against the documented API,
//! not a live account.

use std::time::Duration;

use oar_tiles::cdn::{
    CloudflareOptions, CloudflarePlan, FastlyOptions, NginxOptions, ProviderOptions, PurgeItem, SecretSource, SendEnd,
    Sent, TileAddresses, VarnishOptions, batches, names, provider, send,
};
use oar_tiles::stop::Stop;
use oar_tiles::tile::Zoom;

use super::options;
use crate::support::stub::{Stub, StubAnswer};

pub(super) const TOKEN: &str = "very-secret-0123456789";

/// A token in a file.
struct TokenFile(tempfile::NamedTempFile);

impl TokenFile {
    fn new() -> TokenFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{TOKEN}\n")).unwrap();
        TokenFile(file)
    }

    fn source(&self) -> SecretSource {
        SecretSource::File(self.0.path().to_owned())
    }
}

/// One item of each kind that a provider may get.
pub(super) fn all_kinds() -> Vec<PurgeItem> {
    let zoom = Zoom::new(5).unwrap();
    vec![
        PurgeItem::Tile("5/21/11".parse().unwrap()),
        PurgeItem::Tile("5/21/12".parse().unwrap()),
        PurgeItem::Column { zoom, x: 21 },
        PurgeItem::Tag("n-0-0-0".to_owned()),
        PurgeItem::Tag("n-5-21-11".to_owned()),
    ]
}

fn sent_within(given: ProviderOptions, items: &[PurgeItem], within: Duration) -> Sent {
    let given = options(given);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let provider = provider(&given).await.unwrap();
        let addresses = TileAddresses::new(given.url.clone(), vec!["{z}/{x}/{y}.pbf".to_owned()]);
        let batches = batches(&names(items, &addresses), |kind| provider.limits(kind), "7");
        send(given.provider.name(), &*provider, batches, within, &Stop::new()).await
    })
}

pub(super) fn sent(given: ProviderOptions, items: &[PurgeItem]) -> Sent {
    sent_within(given, items, Duration::from_secs(60))
}

fn fastly(stub: &Stub, token: &TokenFile) -> ProviderOptions {
    let (token, endpoint) = (token.source(), Some(stub.url.clone()));
    ProviderOptions::Fastly(FastlyOptions { service: "SU1".to_owned(), token, soft: true, endpoint })
}

fn cloudflare(stub: &Stub, token: &TokenFile, origins: &[&str]) -> ProviderOptions {
    ProviderOptions::Cloudflare(CloudflareOptions {
        zone: "z1".to_owned(),
        token: token.source(),
        plan: CloudflarePlan::Free,
        origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        endpoint: Some(stub.url.clone()),
    })
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn fastly_is_asked_by_keys_and_urls_softly() {
    let (stub, token) = (Stub::new(|_| StubAnswer::of(200, "{\"status\":\"ok\"}")), TokenFile::new());
    let mut items = all_kinds();
    items.retain(|item| !item.is_wildcard());
    assert_eq!(sent(fastly(&stub, &token), &items).end, SendEnd::All);
    assert_eq!(
        sorted(stub.lines()),
        [
            "POST /purge/tiles.example.org/facilities/5/21/11.pbf",
            "POST /purge/tiles.example.org/facilities/5/21/12.pbf",
            "POST /service/SU1/purge {\"surrogate_keys\":[\"n-0-0-0\",\"n-5-21-11\"]}",
        ]
    );
    for request in stub.asked() {
        assert_eq!((request.header("fastly-key"), request.header("fastly-soft-purge")), (Some(TOKEN), Some("1")));
    }
    let keys: Vec<PurgeItem> = (0..600).map(|number| PurgeItem::Tag(format!("n-{number}"))).collect();
    assert_eq!(sent(fastly(&stub, &token), &keys).taken, 600);
    assert_eq!(stub.asked().len(), 3 + 3, "256 keys a request");
    assert_eq!(sent(fastly(&stub, &token), &[PurgeItem::Everything]).end, SendEnd::All);
    assert_eq!(stub.lines().last().unwrap(), "POST /service/SU1/purge_all");
}

#[test]
fn cloudflare_is_asked_by_prefixes_for_its_keys_hold_the_origin() {
    let (stub, token) = (Stub::new(|_| StubAnswer::of(200, "{\"success\":true}")), TokenFile::new());
    assert_eq!(sent(cloudflare(&stub, &token, &[]), &all_kinds()).end, SendEnd::All);
    let to = "POST /client/v4/zones/z1/purge_cache";
    assert_eq!(
        stub.lines(),
        [
            format!("{to} {{\"tags\":[\"n-0-0-0\",\"n-5-21-11\"]}}"),
            format!("{to} {{\"prefixes\":[\"tiles.example.org/facilities/5/21\"]}}"),
            format!(
                "{to} {{\"prefixes\":[\"tiles.example.org/facilities/5/21/11.pbf\",\"tiles.example.org/facilities/5/21/12.pbf\"]}}"
            ),
        ]
    );
    assert_eq!(stub.asked()[0].header("authorization"), Some(&*format!("Bearer {TOKEN}")));
    // With the sites that show the tiles: files, once for each and once without.
    let tile = PurgeItem::Tile("0/0/0".parse().unwrap());
    assert_eq!(sent(cloudflare(&stub, &token, &["https://map.org"]), &[tile]).end, SendEnd::All);
    let url = "https://tiles.example.org/facilities/0/0/0.pbf";
    assert_eq!(
        stub.lines()[3],
        format!("{to} {{\"files\":[\"{url}\",{{\"headers\":{{\"Origin\":\"https://map.org\"}},\"url\":\"{url}\"}}]}}")
    );
}

#[test]
fn cloudflare_says_no_with_200() {
    let body = "{\"success\":false,\"errors\":[{\"code\":1107,\"message\":\"not on this plan\"}]}";
    let (stub, token) = (Stub::new(move |_| StubAnswer::of(200, body)), TokenFile::new());
    let SendEnd::Refused(what) = sent(cloudflare(&stub, &token, &[]), &all_kinds()).end else { panic!() };
    assert!(what.contains("not on this plan"), "{what}");
}

#[test]
fn varnish_and_nginx_are_asked_at_each_server_by_the_hosts_name() {
    let (one, other) = (Stub::new(|_| StubAnswer::of(200, "")), Stub::new(|_| StubAnswer::of(200, "")));
    let caches = vec![one.url.clone(), other.url.clone()];
    let given = ProviderOptions::Varnish(VarnishOptions { caches: caches.clone(), token: None, soft: true });
    assert_eq!(sent(given, &all_kinds()).end, SendEnd::All);
    let expected = [
        "BAN /facilities/5/21/",
        "PURGE /facilities/",
        "PURGE /facilities/5/21/11.pbf",
        "PURGE /facilities/5/21/12.pbf",
    ];
    for stub in [&one, &other] {
        assert_eq!(sorted(stub.lines()), expected);
        assert!(stub.asked().iter().all(|request| request.header("host") == Some("tiles.example.org")));
        assert!(stub.asked().iter().any(|request| request.header("xkey-softpurge") == Some("n-0-0-0 n-5-21-11")));
    }
    let absent = Stub::new(|_| StubAnswer::of(404, "not in the cache"));
    let nginx =
        |wildcards| ProviderOptions::Nginx(NginxOptions { caches: vec![absent.url.clone()], token: None, wildcards });
    let tile = PurgeItem::Tile("5/21/11".parse().unwrap());
    assert_eq!(sent(nginx(false), &[tile]).end, SendEnd::All, "what nginx has not cached needs no purge");
    assert!(matches!(sent(nginx(false), &[PurgeItem::Everything]).end, SendEnd::Refused(_)));
    assert_eq!(sent(nginx(true), &[PurgeItem::Everything]).end, SendEnd::All);
    assert_eq!(absent.lines().last().unwrap(), "PURGE /facilities/*");
}

#[test]
fn what_passes_is_tried_again_with_the_same_reference_and_what_stays_is_not() {
    let token = TokenFile::new();
    let mut times = 0;
    let stub = Stub::new(move |_| {
        times += 1;
        match times {
            1 => StubAnswer::Says(429, "retry-after: 1\r\n", "slow down".to_owned()),
            2 => StubAnswer::Cut,
            3 => StubAnswer::of(503, ""),
            _ => StubAnswer::of(200, "{}"),
        }
    });
    let tags = [PurgeItem::Tag("n".to_owned())];
    let sent_with = sent(fastly(&stub, &token), &tags);
    assert_eq!((sent_with.end, sent_with.refusals >= 2), (SendEnd::All, true));
    let lines = stub.lines();
    assert!(lines.len() >= 4 && lines.iter().all(|line| *line == lines[0]), "{lines:?}");
    // There is no time for a pause: the batch is left, and the cause is named.
    let busy = Stub::new(|_| StubAnswer::Says(429, "retry-after: 3600\r\n", "slow down".to_owned()));
    let left = sent_within(fastly(&busy, &token), &tags, Duration::from_secs(5));
    let SendEnd::TimeUp(Some(what)) = left.end else { panic!("{left:?}") };
    assert!(what.contains("429") && left.left.len() == 1 && busy.asked().len() == 1, "{what}");
}

#[test]
fn refusals_name_the_cause_and_never_the_secret_and_no_redirect_is_followed() {
    let token = TokenFile::new();
    let elsewhere = Stub::new(|_| StubAnswer::of(200, "{}"));
    let target = elsewhere.url.clone();
    let redirect: &'static str = Box::leak(format!("location: {target}/\r\n").into_boxed_str());
    for (status, headers) in [(401, ""), (403, ""), (404, ""), (400, ""), (301, redirect), (307, redirect)] {
        let stub = Stub::new(move |request| {
            StubAnswer::Says(status, headers, format!("no right for {}", request.header("fastly-key").unwrap()))
        });
        let answered = sent(fastly(&stub, &token), &[PurgeItem::Tag("n".to_owned())]);
        let SendEnd::Refused(what) = &answered.end else { panic!("{status}: {answered:?}") };
        assert!(what.contains(&status.to_string()) && what.contains("(hidden)"), "{what}");
        assert!(!format!("{answered:?}").contains(TOKEN));
        assert_eq!((stub.asked().len(), answered.left.len()), (1, 1));
    }
    assert!(elsewhere.asked().is_empty());
}
