//! Where a target cannot be brought up to date, and what the log is pruned of: exit code 4 and clear words.

use std::path::Path;

use crate::change_log::database_identity::{plain, set_database};
use crate::support::program::{program, run};
use crate::support::tracked::{SOME, Tracked};
use crate::support::{Cluster, Db};

#[test]
fn a_target_that_nobody_can_bring_up_to_date_needs_a_seed() {
    let tracked = Tracked::facilities(200);
    let zoom = ["--zoom", "0-5"];
    let missing = tracked.path("missing.mbtiles");
    tracked.reseed(&missing, &[]).fails(
        4,
        &[&format!(
            "error: {} needs a full seed: there is none yet. Run oar-tiles seed, or reseed with --or-seed",
            missing.display()
        )],
    );
    let whole = tracked.seed("whole.mbtiles", &zoom);
    let part = tracked.path("part.mbtiles");
    run(program().args(["copy", "--zoom", "0-2"]).arg(&whole).arg(&part)).ok();
    tracked.reseed(&part, &[]).fails(
        4,
        &["it has no manifest, so nobody knows what it shows (another program made it, or a copy of a part)"],
    );
    let config = tracked.path("other.toml");
    std::fs::write(&config, "[[layer]]\nname = \"other\"\ntable = \"api_facility\"\nproperties = [\"id\"]\n").unwrap();
    tracked.reseed(&whole, &["--config", config.to_str().unwrap()]).fails(
        4,
        &[
            "it was seeded with another configuration (its fingerprint is ",
            "): give the --config and --layer that it was seeded with",
        ],
    );
    let edit = |path: &Path, from: &str, to: &str| {
        let archive = rusqlite::Connection::open(path).unwrap();
        let changed = archive
            .execute("UPDATE metadata SET value = replace(value, ?1, ?2) WHERE name = 'oar_tiles_manifest'", [from, to])
            .unwrap();
        assert_eq!(changed, 1);
    };
    for (from, to, text) in [
        (
            "\"version\":1",
            "\"version\":9",
            "its manifest is of version 9 and this program knows 2: a newer oar-tiles wrote it",
        ),
        ("\"fingerprint\"", "\"footprint\"", "its manifest cannot be read (missing field `fingerprint`"),
        ("\"oid\":", "\"oid\":1", "it shows another database (\"test_"),
        ("\"postgis\":\"", "\"postgis\":\"2.", ", which may draw tiles differently"),
        ("\"snapshot\":\"", "\"snapshot\":\"x", "is no snapshot: write it as pg_current_snapshot() does"),
        ("\"zooms\":\"0-5\"", "\"zooms\":\"5-0\"", "its manifest cannot be read (the zoom range 5-0 is reversed"),
    ] {
        let odd = tracked.path("odd.mbtiles");
        std::fs::copy(&whole, &odd).unwrap();
        // As manifests said it at first; those of today say it by hashes, see `identity`.
        set_database(&odd, &plain(&tracked.db));
        edit(&odd, from, to);
        let before = std::fs::read(&odd).unwrap();
        tracked.reseed(&odd, &[]).fails(4, &["needs a full seed: ", text]);
        assert!(before == std::fs::read(&odd).unwrap(), "{text}");
        let seeded = tracked.reseed(&odd, &["--or-seed", "--zoom", "0-5"]).ok();
        assert!(
            seeded.stderr.contains(text) && seeded.stdout.contains(" planned, "),
            "{}{}",
            seeded.stderr,
            seeded.stdout
        );
        tracked.is_fresh(&odd, &zoom);
        tracked.reseed(&odd, &[]).ok();
    }
}

#[test]
fn a_database_made_anew_under_the_same_name_is_another_one() {
    let tracked = Tracked::facilities(50);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-3"]);
    let dump = tracked.path("dump.sql");
    let pg = |program: &str, arguments: &[&str]| {
        let done = std::process::Command::new(program).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    pg("pg_dump", &["--file", dump.to_str().unwrap(), &tracked.db.url]);
    tracked.db.run("UPDATE api_facility SET name = 'lost'");
    tracked.reseed(&target, &[]).ok();
    // The database itself is not dropped: the test has it open. What it holds is.
    tracked.db.run("DROP SCHEMA oar_tiles CASCADE; DROP TABLE api_facility; DROP EXTENSION postgis");
    pg("psql", &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", dump.to_str().unwrap(), &tracked.db.url]);
    let refused = tracked.reseed(&target, &[]);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
}

#[test]
fn the_log_is_pruned_up_to_what_every_target_has_seen() {
    // A server of its own: what other tests' transactions have begun would hold the pruning up.
    let cluster = Cluster::new();
    let tracked = Tracked::over(Db::with_facilities_on(&cluster.url, 500));
    let zoom = ["--zoom", "0-6"];
    let (one, two) = (tracked.seed("one.mbtiles", &zoom), tracked.seed("two.pmtiles", &zoom));
    let (one_text, two_text) = (one.to_str().unwrap(), two.to_str().unwrap());
    let change = |round: u32| tracked.db.run(&format!("UPDATE api_facility SET name = 'r{round}' WHERE {SOME}"));
    let noted = || {
        tracked.db.value::<i64>(
            "SELECT coalesce(sum(rows), 0) FROM oar_tiles.change WHERE xid > (SELECT pruned FROM oar_tiles.state)",
        )
    };
    change(1);
    tracked.reseed(&one, &[]).ok();
    change(2);
    let status = tracked.oar_tiles(&["track", "status", one_text, two_text]).ok().stdout;
    let lines: Vec<&str> = status.lines().collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<String>>();
    assert_eq!(words(lines[0]), ["table", "changed", "rows", "oldest"]);
    assert_eq!(words(lines[1])[..2], ["\"public\".\"api_facility\"", "10"]);
    assert!(lines[1].ends_with(" s ago"), "{status}");
    assert!(lines[2].starts_with(&format!("{one_text}: behind by 5 changed rows, ")), "{status}");
    assert!(lines[3].starts_with(&format!("{two_text}: behind by 10 changed rows, ")), "{status}");
    assert!(lines[3].ends_with(" dirty tiles"), "{status}");
    // The one that is behind holds it up.
    let pruned = tracked.oar_tiles(&["track", "prune", one_text, two_text]).ok();
    assert!(pruned.stdout.starts_with("0 changed rows taken out of the change log of "), "{}", pruned.stdout);
    assert!(
        pruned.stdout.contains(", 10 left, which not every target has seen yet (track status)\n"),
        "{}",
        pruned.stdout
    );
    let space = "PostgreSQL uses their disk space again after a vacuum";
    assert!(!pruned.stdout.contains(space), "{}", pruned.stdout);
    tracked.reseed(&two, &[]).ok();
    let pruned = tracked.oar_tiles(&["track", "prune", one_text, two_text]).ok();
    assert!(pruned.stdout.starts_with("5 changed rows taken out of"), "{}", pruned.stdout);
    assert!(pruned.stdout.contains(space), "{}", pruned.stdout);
    assert_eq!(noted(), 5);
    tracked.reseed(&one, &[]).ok();
    tracked.is_fresh(&one, &zoom);
    assert!(tracked.reseed(&two, &[]).ok().stdout.starts_with("nothing to do"));
    let status = tracked.oar_tiles(&["track", "status", one_text]).ok().stdout;
    assert!(status.ends_with(&format!("{one_text}: up to date\n")), "{status}");
    // Whoever is behind what was taken out by its age needs a seed.
    change(3);
    tracked.oar_tiles(&["track", "prune", "--older-than", "0s"]).ok();
    assert_eq!(noted(), 0);
    tracked
        .reseed(&one, &[])
        .fails(4, &["the change log no longer holds what the target has not seen: it was pruned up to transaction "]);
    let status = tracked.oar_tiles(&["track", "status", one_text, two_text]);
    let next = "error: targets that need a full seed: 2 of 2, for the reasons given above. Run oar-tiles seed, or reseed with --or-seed\n";
    let status = status.fails(4, &[next]).stdout;
    assert!(
        status.contains(&format!(
            "{one_text} cannot be brought up to date: the change log no longer holds what the target has not seen"
        )),
        "{status}"
    );
    let status: serde_json::Value =
        serde_json::from_str(&tracked.oar_tiles(&["track", "status", "--json", one_text]).fails(4, &[]).stdout)
            .unwrap();
    assert_eq!(status["tables"][0]["rows"], 0);
    tracked.reseed(&one, &["--or-seed", "--zoom", "0-6"]).ok();
    tracked.is_fresh(&one, &zoom);
    assert!(tracked.reseed(&one, &[]).ok().stdout.starts_with("nothing to do"));
}

#[test]
fn reading_rights_are_enough_for_a_reseed_and_the_log_needs_its_own() {
    let tracked = Tracked::facilities(200);
    let target = tracked.seed("t.mbtiles", &["--zoom", "0-4"]);
    let role = format!("reader_{}", tracked.db.name);
    tracked.db.run(&format!("CREATE ROLE {role} LOGIN; GRANT SELECT ON api_facility TO {role}"));
    tracked.db.run(&format!("UPDATE api_facility SET name = 'x' WHERE {SOME}"));
    let url = tracked.db.url.replacen("://", &format!("://{role}@"), 1);
    let url = match url.split_once("://").and_then(|(_, rest)| rest.split_once('@').map(|(_, rest)| rest.contains('@')))
    {
        // The test server's URL has a user already: it gives way.
        Some(true) => {
            let (scheme, rest) = tracked.db.url.split_once("://").unwrap();
            format!("{scheme}://{role}@{}", rest.split_once('@').unwrap().1)
        }
        _ => url,
    };
    let reseed = || {
        let mut command = program();
        command.args(["reseed", "--progress", "none", "--database-url", &url, "--output"]).arg(&target);
        run(&mut command)
    };
    reseed().fails(4, &[
        &format!("the role {role} may not read the change log: run oar-tiles track install --reader {role} as its owner, or GRANT USAGE ON SCHEMA \"oar_tiles\" TO {role}"),
    ]);
    tracked.oar_tiles(&["track", "install", "--reader", &role]).ok();
    reseed().ok();
    tracked.is_fresh(&target, &["--zoom", "0-4"]);
    run(program().args(["track", "prune", "--database-url", &url]).arg(&target))
        .fails(1, &["the role may not prune the change log in "]);
    tracked.db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
