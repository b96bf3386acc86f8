//! Other servers than one's own: a hot standby, a pooler, TLS, and a role that may only read.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::support::certificates::certificates;
use crate::support::gate::gated;
use crate::support::pooler::{Pooler, address, spread};
use crate::support::program::{signal, start_seed, wait};
use crate::support::served::{Served, status};
use crate::support::{Archive, Cluster, Db, Gate, Place, database, seed, until};

/// Seeds and gives the tiles.
fn tiles(url: &str, output: &Path) -> std::collections::BTreeMap<(u8, u32, u32), Vec<u8>> {
    seed(url, output, &[]).ok();
    Archive::open(output).stored()
}

#[test]
fn a_hot_standby_gives_the_same_tiles_as_its_primary() {
    let primary = Cluster::new();
    let db = Db::with_facilities_on(&primary.url, 500);
    let standby = Cluster::standby_of(&primary);
    let folder = tempfile::tempdir().unwrap();
    let expected = tiles(&db.url, &folder.path().join("primary.mbtiles"));
    let url = database::with_database(&standby.url, &db.name);
    assert!(tiles(&url, &folder.path().join("standby.mbtiles")) == expected);
    let manifest = Archive::open(&folder.path().join("standby.mbtiles")).metadata("oar_tiles_manifest").unwrap();
    assert!(manifest.contains("\"snapshot\":"), "{manifest}");
}

#[test]
fn a_role_that_may_only_select_from_the_table_can_seed() {
    let db = Db::with_facilities(200);
    let folder = tempfile::tempdir().unwrap();
    let (mine, theirs) = (folder.path().join("mine.mbtiles"), folder.path().join("theirs.mbtiles"));
    let role = format!("{}_reader", db.name);
    db.run(&format!(
        "REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT CONNECT ON DATABASE {name} TO CURRENT_USER;
         CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT;
         ALTER ROLE {role} SET default_transaction_read_only = on;
         GRANT CONNECT ON DATABASE {name} TO {role}",
        name = db.name
    ));
    let url = db.url.replacen("oar_tiles@", &format!("{role}@"), 1);
    seed(&url, &theirs, &[]).fails(2, &["GRANT SELECT ON"]);
    db.run(&format!("GRANT SELECT ON api_facility TO {role}"));
    assert!(tiles(&url, &theirs) == tiles(&db.url, &mine));
    db.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[test]
fn an_address_that_stands_for_a_primary_and_a_standby_ends_the_run_with_both_names() {
    let primary = Cluster::new();
    let db = Db::with_facilities_on(&primary.url, 100);
    let standby = Cluster::standby_of(&primary);
    let url = database::with_database(&primary.url_tcp, &db.name);
    let (first, second) = (address(&primary.url_tcp), address(&standby.url_tcp));
    let folder = tempfile::tempdir().unwrap();
    let seeded = |before: Box<dyn Fn(usize) + Send>| {
        let port = spread(vec![first.clone(), second.clone()], before);
        let url = url.replace(&first, &format!("127.0.0.1:{port}"));
        let output = folder.path().join("a.mbtiles");
        let server = format!("127.0.0.1:{port}");
        let run = seed(&url, &output, &[]).fails(
            1,
            &[
                &server,
                "stands for several servers, and the sessions of a run need one",
                &format!("{first} (started "),
                &format!("{second} (started "),
                "Name one server, such as an instance instead of the reader address of a cluster; nothing was published",
            ],
        );
        assert!(!run.stderr.contains("starting over"), "{}", run.stderr);
        assert!(!output.exists());
    };
    // The standby does not know the name of the primary's snapshot.
    seeded(Box::new(|_| ()));
    // It knows one of that name, another's.
    let (from, to) = (primary.path().join("data/pg_snapshots"), standby.path().join("data/pg_snapshots"));
    assert!(from.exists() && to.exists());
    seeded(Box::new(move |number| {
        if number > 0 {
            for file in fs::read_dir(&from).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
    }));
    // Either server alone is enough.
    let port = spread(vec![second.clone()], |_| ());
    let url = url.replace(&first, &format!("127.0.0.1:{port}"));
    seed(&url, &folder.path().join("b.mbtiles"), &[]).ok();
}

#[test]
fn a_pooler_that_lends_connections_by_transaction_gives_the_same_tiles() {
    let db = Db::with_facilities(500);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let expected = tiles(&db.url, &path("direct.mbtiles"));
    // Two runs of two workers and a keeper each: the connections of one are lent to the next.
    let pooler = Pooler::new(6);
    let url = pooler.url(&db);
    for _ in 0..3 {
        assert!(tiles(&url, &path("pooled.mbtiles")) == expected);
    }
    for _ in 0..2 {
        let runs =
            ["a.mbtiles", "b.mbtiles"].map(|name| (start_seed(&url, &path(name), &["--workers", "2"]), path(name)));
        for (run, path) in runs {
            wait(run).ok();
            assert!(Archive::open(&path).stored() == expected);
        }
    }
}

/// Sessions that render live tiles name their statements.
#[test]
fn live_tiles_come_through_a_pooler_even_if_others_have_left_statements_of_the_same_names() {
    let db = Db::with_facilities(500);
    let folder = tempfile::tempdir().unwrap();
    let (all, some) = (folder.path().join("all.mbtiles"), folder.path().join("some.mbtiles"));
    let expected = tiles(&db.url, &all);
    seed(&db.url, &some, &["--zoom", "0-1"]).ok();
    for pooler in [Pooler::new(6), Pooler::with_statements_left(6)] {
        let (some, url) = (some.to_str().unwrap(), pooler.url(&db));
        let served = Served::new(some, &["--live", "--workers", "2", "--database-url", &url]);
        for ((z, x, y), bytes) in expected.iter().filter(|((z, ..), _)| (2..=5).contains(z)) {
            let answer = served.get(&format!("/{z}/{x}/{y}.pbf"), "Accept-Encoding: gzip\r\n");
            assert!(status(&answer) == 200 && answer.body == *bytes, "{z}/{x}/{y}: {}", answer.head);
        }
    }
}

#[test]
fn a_stop_works_behind_a_pooler_even_while_it_has_no_connection_to_lend() {
    let db = Db::with_facilities(100);
    let folder = tempfile::tempdir().unwrap();
    let (output, config) = (folder.path().join("t.mbtiles"), gated(folder.path(), Place::Render, ""));
    // The keeper takes the first connection: a worker waits for a second, or in the server for the gate.
    for connections in [1, 6] {
        let pooler = Pooler::new(connections);
        let gate = Gate::close(&db);
        let child = start_seed(&pooler.url(&db), &output, &["--config", &config]);
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'oar-tiles'";
        let kept = format!("{sessions} AND state = 'idle in transaction' AND query NOT LIKE 'BEGIN%'");
        if connections == 1 {
            until("the keeper has its snapshot", || db.value::<i64>(&kept) >= 1);
        } else {
            gate.wait_for(2);
        }
        signal(&child, "INT");
        let begun = std::time::Instant::now();
        let ended = wait(child).fails(130, &["interrupted"]);
        // Two seconds are promised; a loaded machine may take longer.
        assert!(begun.elapsed().as_secs() < 10, "{}", ended.stderr);
        until("the server lets go", || db.value::<i64>(&format!("{sessions} AND state = 'active'")) == 0);
        gate.open();
        assert!(!output.exists());
    }
}

#[test]
fn tls_checks_as_much_as_the_mode_asks_for() {
    let cluster = Cluster::new();
    let db = Db::with_facilities_on(&cluster.url, 20);
    let folder = tempfile::tempdir().unwrap();
    let wrong = certificates(folder.path(), "wrong");
    let right = certificates(folder.path(), "right");
    let data = cluster.path().join("data");
    let owner = fs::metadata(&data).unwrap();
    for (file, mode) in [("server.crt", 0o644), ("server.key", 0o600)] {
        fs::copy(folder.path().join(file), data.join(file)).unwrap();
        fs::set_permissions(data.join(file), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(data.join(file), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    // Who comes by TLS and who comes without tells which it was.
    fs::write(
        data.join("pg_hba.conf"),
        "local all all trust\nhostssl all by_tls 127.0.0.1/32 trust\nhostnossl all plainly 127.0.0.1/32 trust\n",
    )
    .unwrap();
    db.run("CREATE ROLE by_tls LOGIN; CREATE ROLE plainly LOGIN; GRANT SELECT ON api_facility TO by_tls, plainly");
    db.run("SELECT pg_reload_conf()");
    let output = folder.path().join("t.mbtiles");
    let port = cluster.url_tcp.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.to_owned();
    let try_out = |user: &str, host: &str, mode: &str, root: Option<&Path>| {
        let root = root.map(|root| format!("&sslrootcert={}", root.display())).unwrap_or_default();
        seed(&format!("postgresql://{user}@{host}:{port}/{}?sslmode={mode}{root}", db.name), &output, &[])
    };
    // Without TLS in the server: libpq's default is content, more is refused.
    until("the server has read its rules", || try_out("plainly", "127.0.0.1", "disable", None).code == 0);
    try_out("plainly", "127.0.0.1", "prefer", None).ok();
    try_out("plainly", "127.0.0.1", "require", None).fails(1, &["TLS", "sslmode"]);
    db.run("ALTER SYSTEM SET ssl = on");
    db.run("SELECT pg_reload_conf()");
    until("the server has TLS", || try_out("by_tls", "127.0.0.1", "require", None).code == 0);

    let (right, wrong) = (Some(&*right), Some(&*wrong));
    let missing = folder.path().join("missing.crt");
    for (user, host, mode, root, refused) in [
        ("plainly", "127.0.0.1", "disable", None, None),
        ("by_tls", "127.0.0.1", "disable", None, Some("no encryption")),
        ("by_tls", "127.0.0.1", "prefer", None, None),
        ("by_tls", "127.0.0.1", "require", None, None),
        // As libpq does it: a root certificate turns "require" into "verify-ca".
        ("by_tls", "127.0.0.1", "require", right, None),
        ("by_tls", "127.0.0.1", "require", wrong, Some("certificate")),
        ("by_tls", "127.0.0.1", "verify-ca", right, None),
        ("by_tls", "localhost", "verify-ca", right, None),
        ("by_tls", "127.0.0.1", "verify-ca", wrong, Some("certificate")),
        ("by_tls", "127.0.0.1", "verify-ca", None, Some("certificate")),
        ("by_tls", "localhost", "verify-full", right, None),
        ("by_tls", "localhost", "verify-full", wrong, Some("certificate")),
        ("by_tls", "127.0.0.1", "verify-full", right, Some("not valid for name")),
    ] {
        let what = format!("{user} at {host}, {mode}, {root:?}");
        let ended = try_out(user, host, mode, root);
        match refused {
            None => assert_eq!(ended.code, 0, "{what}: {}", ended.stderr),
            Some(text) => drop(ended.fails(1, &["error: the database", text])),
        }
    }
    try_out("by_tls", "localhost", "verify-full", Some(&missing)).fails(2, &["cannot read sslrootcert", "missing.crt"]);

    // A stop cancels by TLS as well.
    let config = gated(folder.path(), Place::Render, "");
    let gate = Gate::close(&db);
    let url = format!("postgresql://by_tls@127.0.0.1:{port}/{}?sslmode=require", db.name);
    let child = start_seed(&url, &output, &["--config", &config]);
    gate.wait_for(1);
    signal(&child, "TERM");
    let ended = wait(child).fails(143, &["interrupted"]);
    assert!(!ended.stderr.contains("could not be cancelled"), "{}", ended.stderr);
    let active = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'by_tls' AND state = 'active'";
    until("the server lets go", || db.value::<i64>(active) == 0);
}
