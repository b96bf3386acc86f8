//! The sections `[[purge]]`.

use super::*;

/// The section of the sample as if it were given, with one of the providers.
fn sample(provider: &str, keys: &str) -> String {
    let begin = SAMPLE.find("\n# [[purge]]").unwrap() + 1;
    let lines = SAMPLE[begin..].lines().skip(1).map_while(|line| line.strip_prefix("#   "));
    let of_provider = lines.filter(|line| {
        let key = line.split(' ').next().unwrap();
        keys.split(' ').chain(["url", "by", "budget_per_month", "wait", "required", "rebound"]).any(|name| name == key)
    });
    format!("[[purge]]\nprovider = \"{provider}\"\n{}\n", of_provider.collect::<Vec<_>>().join("\n"))
}

const KEYS: [(&str, &str); 6] = [
    ("cloudfront", "distribution profile endpoint min_interval settle"),
    ("fastly", "service token_file endpoint soft"),
    ("cloudflare", "zone plan origins token_variable"),
    ("varnish", "caches soft token_file"),
    ("nginx", "caches wildcards"),
    ("command", "program max_items"),
];

#[test]
fn the_sample_holds_every_key_of_every_provider() {
    for (provider, keys) in KEYS {
        let text = sample(provider, keys);
        for key in keys.split(' ') {
            assert!(text.contains(&format!("\n{key} = ")), "{provider} {key}");
        }
        let job = resolve(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(job.tileset.purges[0].provider.name(), provider);
    }
    assert!(resolve("").unwrap().tileset.purges.is_empty());
}

#[test]
fn a_wrong_purge_is_answered_with_its_key() {
    let fastly = "[[purge]]\nprovider = \"fastly\"\nurl = \"https://h/\"\n";
    for (text, key, message) in [
        (fastly.to_owned(), "purge.service", "has no value: write one"),
        (format!("{fastly}service = \"../x\""), "purge.service", "\"../x\" is no id: write letters and digits"),
        (
            format!("{fastly}service = \"a\"\nzone = \"b\""),
            "purge.zone",
            "is of provider = \"cloudflare\": leave it out",
        ),
        (
            "[[purge]]\nprovider = \"cloudfront\"\nurl = \"https://h/\"\ndistribution = \"E1\"\nsoft = true".to_owned(),
            "purge.soft",
            "is of provider = \"fastly\" or \"varnish\": leave it out",
        ),
        (
            fastly.replace("https://h/", "h"),
            "purge.url",
            "\"h\" is no whole address: write https://HOST/PATH/, under which clients find the tiles",
        ),
        (
            format!("{fastly}service = \"a\"\nendpoint = \"https://me:hunter2@h\""),
            "purge.endpoint",
            "holds a user or a password, which no cached address has: leave it out",
        ),
    ] {
        answered(&text, key, message);
    }
}

#[test]
fn a_cdn_that_was_a_provider_once_is_answered_with_its_program() {
    for (name, key) in [("akamai", "cp_code = 1"), ("bunny", "pull_zone = 1")] {
        let text = format!("[[purge]]\n{key}\nprovider = \"{name}\"\nurl = \"https://h/\"\n");
        let message = gather_with(&text, &[], Vec::new()).unwrap_err().to_string();
        let program = format!("program = [\"/usr/local/bin/{name}\", …], with the program examples/purge/{name}");
        assert!(message.contains("is no provider any more") && message.contains(&program), "{message}");
    }
}

#[test]
fn what_is_shown_of_a_purge_holds_no_password() {
    let text = "[[purge]]\nprovider = \"varnish\"\nurl = \"https://h/\"\nendpoint = \"http://me:hunter2@h\"";
    let shown = gather_with(text, &[], Vec::new()).unwrap().show();
    assert!(shown.contains("[[purge]]") && shown.contains("provider = \"varnish\""), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

const BY_TAG: &str =
    "[[purge]]\nprovider = \"varnish\"\nurl = \"https://h/\"\ncaches = [\"http://127.0.0.1:6081\"]\nby = \"tag\"\n";

#[test]
fn tags_that_nobody_sends_are_refused() {
    let without_name = "is \"tag\", and tiles carry {band} without {name}, by which all of them are purged at once: write both into the header";
    for more in ["[serve]\nheaders = { X-Tags = \"{band}\" }", "[s3]\nmetadata = { a = \"{band}\" }"] {
        answered(&format!("{BY_TAG}{more}"), "purge.by", without_name);
    }
    let refusal = "is \"tag\", and nobody sends tags: name the CDN's header in tag_headers of [serve] (before serve), or write [s3] metadata = { \"cache-tag\" = \"{name},{band}\" } (before a bucket), or purge by = \"path\"";
    for more in ["", "[s3]\nmetadata = { a = \"{name}\" }", "[serve]\nheaders = { X-Tile = \"{z}\" }"] {
        answered(&format!("{BY_TAG}{more}"), "purge.by", refusal);
    }
    for more in [
        "[serve]\ntag_headers = [\"xkey\"]",
        "[serve]\nheaders = { X-Tags = \"{name} {band}\" }",
        "[s3]\nmetadata = { cache-tag = \"{name},{band}\" }",
    ] {
        resolve(&format!("{BY_TAG}{more}")).unwrap_or_else(|error| panic!("{error}: {more}"));
    }
}

#[test]
fn a_header_that_no_tile_can_have_is_answered_with_its_key() {
    for (text, key, message) in [
        (
            "[s3]\nmetadata = { a = \"{zoom}\" }",
            "s3.metadata",
            "\"{zoom}\" has {zoom}, and no tile has that: write {name}, {band}, {z}, {x}, {y} or {layer}",
        ),
        (
            "[serve]\nheaders = { X-Tile = \"{z\" }",
            "serve.headers",
            "\"{z\" has a brace that stands alone: placeholders are written {name}",
        ),
        ("[serve]\nheaders = { X-Tile = \"\" }", "serve.headers", "\"\" is no header: write letters of ASCII"),
        ("[serve]\nheaders = { \"X Tile\" = \"a\" }", "serve.headers", "\"x tile\" is no name of a header"),
        (
            "[serve]\nheaders = { Content-Type = \"a\" }",
            "serve.headers",
            "\"Content-Type\" is a header that the server sets itself: leave it out",
        ),
        (
            "[serve]\ntag_headers = [\"Cache-Tag\"]\nheaders = { cache-tag = \"a\" }",
            "serve.headers",
            "\"cache-tag\" is given twice, or in tag_headers, too: write it once",
        ),
    ] {
        answered(text, key, message);
    }
}
