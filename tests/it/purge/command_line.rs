//! `oar-tiles purge` as a user runs it, against stubs.

use std::collections::HashSet;

use crate::support::Db;
use crate::support::program::{program, run, seed};
use crate::support::stub::{Stub, StubAnswer};

/// A seeded target and a configuration with a section `[[purge]]`.
pub(super) struct Purged {
    db: Db,
    folder: tempfile::TempDir,
    pub(super) target: String,
    pub(super) config: String,
}

impl Purged {
    pub(super) fn new(purge: &str) -> Purged {
        let (db, folder) = (Db::with_facilities(20), tempfile::tempdir().unwrap());
        let below = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (target, config) = (below("t.mbtiles"), below("c.toml"));
        seed(&db.url, std::path::Path::new(&target), &["--zoom", "0-8"]).ok();
        let text = format!("[tileset]\nzoom = \"0-8\"\n[[purge]]\nurl = \"https://tiles.test/a/\"\n{purge}\n");
        std::fs::write(&config, crate::support::program::ROWS_LAYER.to_owned() + &text).unwrap();
        Purged { db, folder, target, config }
    }

    pub(super) fn purge(&self, arguments: &[&str]) -> crate::support::program::Run {
        self.purge_with(&[("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", AWS_SECRET)], arguments)
    }

    pub(super) fn purge_with(&self, variables: &[(&str, &str)], arguments: &[&str]) -> crate::support::program::Run {
        let mut command = program();
        command.args(["purge"]).args(arguments).args([&self.target, "--config", &self.config]);
        run(command.envs(variables.iter().copied()))
    }

    pub(super) fn list(&self, tiles: impl Iterator<Item = String>) -> String {
        let path = self.folder.path().join("list.txt");
        std::fs::write(&path, tiles.collect::<Vec<_>>().join("\n")).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

pub(super) const AWS_SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

const REFUSED: &str =
    "<ErrorResponse><Error><Type>Sender</Type><Code>TooManyInvalidationsInProgress</Code></Error></ErrorResponse>";

/// What CloudFront does: at most 3,000 paths and 15 wildcards in progress, a `CallerReference` counts once. Each
/// request finds the ones before it complete once it was refused. The first answer is lost, the second request is
/// refused with 503.
fn cloudfront() -> Stub {
    let (mut times, mut paths, mut wildcards, mut seen) = (0, 0, 0, HashSet::new());
    Stub::new(move |request| {
        times += 1;
        if times == 2 {
            return StubAnswer::of(503, "");
        }
        let part = |before: &str| request.body.split(before).nth(1).unwrap().split('<').next().unwrap().to_owned();
        let reference = part("<CallerReference>");
        if seen.contains(&reference) {
            return StubAnswer::of(201, "the same");
        }
        let items: Vec<&str> =
            request.body.split("<Path>").skip(1).map(|item| item.split('<').next().unwrap()).collect();
        assert_eq!(part("<Quantity>"), items.len().to_string());
        let stars = items.iter().filter(|item| item.ends_with('*')).count();
        if paths + items.len() - stars > 3_000 || wildcards + stars > 15 {
            (paths, wildcards) = (0, 0);
            return StubAnswer::of(400, REFUSED);
        }
        (paths, wildcards) = (paths + items.len() - stars, wildcards + stars);
        seen.insert(reference);
        if times == 1 { StubAnswer::Cut } else { StubAnswer::of(201, "<Invalidation/>") }
    })
}

#[test]
fn cloudfront_is_asked_within_its_limits_whatever_it_answers() {
    let stub = cloudfront();
    let purged = Purged::new(&format!("provider = \"cloudfront\"\ndistribution = \"E1\"\nendpoint = \"{}\"", stub.url));
    // More than 3,000 tiles, in more columns than wildcards may be in progress.
    let tiles = (0..40).flat_map(|x| (0..90).map(move |y| format!("8/{}/{y}", x * 3)));
    let list = purged.list(tiles);
    let dry = purged.purge(&["--tiles", &list, "--dry-run"]).ok().stdout;
    assert!(dry.contains("600 tiles wait") && stub.asked().is_empty(), "{dry}");
    let ran = purged.purge(&["--tiles", &list]).ok();
    assert!(ran.stdout.contains("nothing waits"), "{}{}", ran.stdout, ran.stderr);
    let asked = stub.asked();
    let (path, first) = (&asked[0].path, asked[0].header("authorization").unwrap());
    assert_eq!(path, "/2020-05-31/distribution/E1/invalidation");
    assert!(first.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{first}");
    assert!(first.contains("/us-east-1/cloudfront/aws4_request"), "{first}");
    assert!(asked[0].body == asked[1].body && asked[1].body == asked[2].body, "a repeat is the same request");
    let named: HashSet<&str> = asked
        .iter()
        .flat_map(|request| request.body.split("<Path>").skip(1))
        .map(|item| item.split('<').next().unwrap())
        .collect();
    for x in 0..40 {
        let column = format!("/a/8/{}/*", x * 3);
        let is_named = (0..90).all(|y| named.contains(&*format!("/a/8/{}/{y}.pbf", x * 3)));
        assert!(is_named || named.contains(&*column), "{column}");
    }
}

#[test]
fn no_secret_stands_in_outputs_errors_or_notes() {
    const TOKEN: &str = "very-secret-0123456789";
    let stub = Stub::new(|request| StubAnswer::of(403, &format!("{:?} may not do this", request.headers)));
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), TOKEN).unwrap();
    for provider in [
        "provider = \"fastly\"\nservice = \"S1\"",
        "provider = \"cloudflare\"\nzone = \"z1\"",
        "provider = \"cloudfront\"\ndistribution = \"E1\"",
    ] {
        let file = token.path().display();
        let token = match provider {
            provider if provider.contains("cloudfront") => String::new(),
            _ => format!("token_file = '{file}'\n"),
        };
        let purged = Purged::new(&format!("{provider}\nendpoint = \"{}\"\n{token}", stub.url));
        let list = purged.list(["1/0/0".to_owned()].into_iter());
        let refused = purged.purge(&["--tiles", &list]).ok();
        assert!(refused.stdout.contains("403"), "{}", refused.stdout);
        let shown = purged.purge(&["--dry-run"]).ok().stdout;
        let config = run(program().args(["config", "--config", &purged.config])).ok().stdout;
        let status = run(program().args(["purge", "status", &purged.target, "--config", &purged.config])).ok().stdout;
        assert!(status.contains("stopped"), "{status}");
        // A run that publishes says as much as it can, in its log and in its metrics.
        let metrics = purged.folder.path().join("run.prom");
        let mut seeding = program();
        seeding.args(["seed", "--force", "-vv", "--output", &purged.target, "--config", &purged.config]);
        seeding.args(["--database-url", &purged.db.url, "--metrics"]).arg(&metrics);
        let seeded = run(seeding.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", AWS_SECRET)).ok();
        assert!(seeded.stderr.contains("refuses to be told what changed"), "{}", seeded.stderr);
        assert!(std::fs::read_to_string(&metrics).unwrap().contains("oar_tiles_purge_stopped"));
        let mut notes = String::new();
        let mut folders = vec![purged.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_none_or(|ending| ending != "mbtiles") {
                    notes.push_str(&std::fs::read_to_string(&path).unwrap());
                }
            }
        }
        assert!(notes.contains("\"stopped\""), "the outbox was read: {notes}");
        for text in [&refused.stdout, &refused.stderr, &seeded.stdout, &seeded.stderr, &shown, &config, &status, &notes]
        {
            assert!(!text.contains(TOKEN) && !text.contains(AWS_SECRET), "{text}");
        }
    }
}
