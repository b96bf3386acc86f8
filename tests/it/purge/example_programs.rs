//! The programs in `examples/purge/`, for CDNs that are asked by `provider = "command"`: their requests, against stubs
//! written from the CDNs' documentation, not a live account.

use std::process::Command;

use oar_tiles::cdn::{CommandOptions, ProviderOptions, PurgeItem, SendEnd};
use oar_tiles::tile::{TileCoord, Zoom};

use super::clouds::{TOKEN, all_kinds, sent};
use super::command_line::Purged;
use crate::support::repository;
use crate::support::stub::{Stub, StubAnswer};

fn example(name: &str) -> String {
    repository("examples/purge").join(name).display().to_string()
}

/// One of the programs with an argument, started by `env` with variables.
fn given(variables: &[String], name: &str, argument: &str) -> ProviderOptions {
    let mut program = vec!["env".to_owned()];
    program.extend(variables.iter().cloned());
    program.extend([example(name), argument.to_owned()]);
    ProviderOptions::Command(CommandOptions {
        program,
        max_items: 10_000,
        token_variable: None,
        others_variables: Vec::new(),
    })
}

fn bunny(stub: &Stub) -> ProviderOptions {
    given(&[format!("BUNNY_ENDPOINT={}", stub.url), format!("BUNNY_API_KEY={TOKEN}")], "bunny", "42")
}

fn akamai(stub: &Stub) -> ProviderOptions {
    let variables = [
        format!("AKAMAI_ENDPOINT={}", stub.url),
        "AKAMAI_HOST=https://akaa.luna.akamaiapis.net/".to_owned(),
        "AKAMAI_CLIENT_TOKEN=client-token".to_owned(),
        format!("AKAMAI_CLIENT_SECRET={TOKEN}"),
        "AKAMAI_ACCESS_TOKEN=access-token".to_owned(),
        "AKAMAI_NETWORK=staging".to_owned(),
    ];
    given(&variables, "akamai", "7")
}

#[test]
fn bunny_is_asked_one_by_one_and_waited_for_when_it_is_busy() {
    let mut times = 0;
    let stub = Stub::new(move |_| {
        times += 1;
        if times == 2 {
            return StubAnswer::Says(429, "retry-after: 1\r\n", String::new());
        }
        StubAnswer::of(204, "")
    });
    let done = sent(bunny(&stub), &all_kinds());
    assert_eq!((done.end, done.refusals), (SendEnd::All, 0), "the program waits itself");
    let url = "POST /purge?url=https%3A%2F%2Ftiles.example.org%2Ffacilities%2F5%2F21%2F";
    let again = "POST /pullzone/42/purgeCache {\"CacheTag\": \"n-5-21-11\"}".to_owned();
    assert_eq!(
        stub.lines(),
        [
            "POST /pullzone/42/purgeCache {\"CacheTag\": \"n-0-0-0\"}".to_owned(),
            again.clone(),
            again,
            format!("{url}%2A&async=false"),
            format!("{url}11.pbf&async=false"),
            format!("{url}12.pbf&async=false"),
        ]
    );
    assert!(stub.asked().iter().all(|request| request.header("accesskey") == Some(TOKEN)));
}

#[test]
fn akamai_is_asked_with_a_signature_in_bodies_of_50_kb() {
    let stub = Stub::new(|_| StubAnswer::of(201, "{\"httpStatus\":201,\"estimatedSeconds\":5}"));
    assert_eq!(sent(akamai(&stub), &all_kinds()).end, SendEnd::All);
    assert_eq!(
        stub.lines(),
        [
            "POST /ccu/v3/invalidate/tag/staging {\"objects\": [\"n-0-0-0\", \"n-5-21-11\"]}",
            "POST /ccu/v3/invalidate/cpcode/staging {\"objects\": [7]}",
            "POST /ccu/v3/invalidate/url/staging {\"objects\": [\"https://tiles.example.org/facilities/5/21/11.pbf\", \"https://tiles.example.org/facilities/5/21/12.pbf\"]}",
        ]
    );
    let authorization = stub.asked()[0].header("authorization").unwrap().to_owned();
    let begin = "EG1-HMAC-SHA256 client_token=client-token;access_token=access-token;timestamp=";
    assert!(authorization.starts_with(begin) && !authorization.contains(TOKEN), "{authorization}");
    let zoom = Zoom::new(12).unwrap();
    let tiles: Vec<PurgeItem> = (0..3_000).map(|y| PurgeItem::Tile(TileCoord::new(zoom, 7, y).unwrap())).collect();
    assert_eq!(sent(akamai(&stub), &tiles).taken, 3_000);
    let asked = &stub.asked()[3..];
    let named: usize = asked.iter().map(|request| request.body.matches("https://").count()).sum();
    assert_eq!((named, asked.iter().all(|request| request.body.len() <= 50_000)), (3_000, true));
}

/// Loads the program, and prints its header for two of Akamai's published test cases.
const SIGNED: &str = r#"
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.SourceFileLoader("akamai", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("akamai", loader))
loader.exec_module(module)
host = module.host_of("https://akaa-baseurl-xxxxxxxxxxx-xxxxxxxxxxxxx.luna.akamaiapis.net/")
client, access = (f"akab-{kind}-token-xxx-xxxxxxxxxxxxxxxx" for kind in ("client", "access"))
keys = [host, client, "x" * 43 + "=", access]
for path, body in [("/testapi/v1/t3", b"datadatadatadatadatadatadatadata"), ("/testapi/v1/t6", b"")]:
    print(module.authorization(keys, path, body, "20140321T19:34:21+0000", "nonce-xx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
"#;

#[test]
fn signatures_are_those_of_akamais_published_cases() {
    let python = std::env::var("TEST_PYTHON").expect("scripts/test installs Python");
    let printed = Command::new(python).args(["-B", "-c", SIGNED]).arg(example("akamai")).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let unsigned = "EG1-HMAC-SHA256 client_token=akab-client-token-xxx-xxxxxxxxxxxxxxxx;access_token=akab-access-token-xxx-xxxxxxxxxxxxxxxx;timestamp=20140321T19:34:21+0000;nonce=nonce-xx-xxxx-xxxx-xxxx-xxxxxxxxxxxx;";
    let signatures = ["hXm4iCxtpN22m4cbZb4lVLW5rhX8Ca82vCFqXzSTPe4=", "1gEDxeQGD5GovIkJJGcBaKnZ+VaPtrc4qBUHixjsPCQ="];
    let expected = signatures.map(|signature| format!("{unsigned}signature={signature}\n")).concat();
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), expected);
}

/// As the manual has it: the secret reaches the program by `token_variable`, and a refusal stops the provider without
/// showing it.
#[test]
fn a_refusal_stops_the_provider_and_shows_no_secret() {
    let of_akamai =
        [("AKAMAI_HOST", "a.net"), ("AKAMAI_CLIENT_TOKEN", "client-1"), ("AKAMAI_ACCESS_TOKEN", "access-1")];
    for (name, secret, endpoint, further) in [
        ("bunny", "BUNNY_API_KEY", "BUNNY_ENDPOINT", &[][..]),
        ("akamai", "AKAMAI_CLIENT_SECRET", "AKAMAI_ENDPOINT", &of_akamai),
    ] {
        let stub = Stub::new(|request| StubAnswer::of(403, &format!("{:?} may not do this", request.headers)));
        let program = example(name);
        let purged = Purged::new(&format!(
            "provider = \"command\"\nprogram = ['{program}', '12']\nby = \"url\"\ntoken_variable = \"{secret}\""
        ));
        let list = purged.list(["1/0/0".to_owned()].into_iter());
        let variables = [&[(secret, TOKEN), (endpoint, &*stub.url)], further].concat();
        let refused = purged.purge_with(&variables, &["--tiles", &list]).ok();
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains("exit code 77") && said.contains("answered 403"), "{said}");
        assert_eq!(stub.asked().len(), 1, "{name}");
        assert!(!said.contains(TOKEN), "{said}");
        // Without its secret it asks nobody.
        let without = purged.purge_with(&variables[1..], &[]).ok();
        assert!(without.stderr.contains(&format!("{secret} is not set")), "{}", without.stderr);
        assert_eq!(stub.asked().len(), 1, "{name}");
    }
}
