//! A database with another history than a target has seen: a copy, a promoted standby, a restored disk, a crash. Its
//! identity and its timeline are the same, and its transaction numbers are passed again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::cluster::psql;
use crate::support::database::with_database;
use crate::support::other_sessions::Connection;
use crate::support::program::{ROWS_LAYER, Run, program, run, seed};
use crate::support::redis::Redis;
use crate::support::served::{GZIP, Served};
use crate::support::tracked::{differences, show_the_same};
use crate::support::watch_process::Watching;
use crate::support::{Archive, Cluster, Db, until};

const ZOOM: [&str; 2] = ["--zoom", "0-5"];
const OTHER: &str = "needs a full seed: it shows changes that the database's change log does not hold any more, or other changes have their transaction numbers";

/// Five facilities that one history changes, and five that the other changes.
const LOST: &str =
    "UPDATE api_facility SET name = 'lost' WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 5)";
const FOUND: &str =
    "UPDATE api_facility SET name = 'found' WHERE id IN (SELECT id FROM api_facility ORDER BY md5(id) DESC LIMIT 5)";

/// A server with a tracked database, and targets.
struct Registry {
    cluster: Cluster,
    name: String,
    folder: tempfile::TempDir,
}

impl Registry {
    fn on(cluster: Cluster, facilities: u32) -> Registry {
        let db = std::mem::ManuallyDrop::new(Db::with_facilities_on(&cluster.url, facilities));
        let registry = Registry { cluster, name: db.name.clone(), folder: tempfile::tempdir().unwrap() };
        registry.verb(&["track", "install"]).ok();
        registry
    }

    fn url(&self) -> String {
        self.url_at(&self.cluster)
    }

    fn url_at(&self, cluster: &Cluster) -> String {
        with_database(&cluster.url, &self.name)
    }

    fn sql(&self, sql: &str) -> String {
        psql(&self.url(), sql)
    }

    /// The same database in a standby.
    fn at(&self, cluster: Cluster) -> Registry {
        Registry { cluster, name: self.name.clone(), folder: tempfile::tempdir().unwrap() }
    }

    fn target(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn seeded(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let target = self.target(name);
        seed(&self.url(), &target, arguments).ok();
        target
    }

    fn verb(&self, arguments: &[&str]) -> Run {
        run(program().args(arguments).args(["--database-url", &self.url()]))
    }

    fn reseed(&self, target: &Path, arguments: &[&str]) -> Run {
        self.verb(&[&["reseed", "--progress", "none", "--output", target.to_str().unwrap()], arguments].concat())
    }

    #[track_caller]
    fn is_fresh(&self, target: &Path) {
        let fresh = self.target("fresh.mbtiles");
        seed(&self.url(), &fresh, &ZOOM).ok();
        show_the_same(target, &fresh);
    }

    /// The other history: it takes the transaction numbers that the lost one had, and more.
    fn goes_on(url: &str) {
        (0..20).for_each(|round| drop(psql(url, &FOUND.replace("found", &format!("found {round}")))));
    }
}

fn manifest(target: &Path) -> Value {
    serde_json::from_str(&Archive::open(target).metadata("oar_tiles_manifest").unwrap()).unwrap()
}

#[test]
fn a_restored_disk_is_another_history_for_every_verb() {
    let mut registry = Registry::on(Cluster::new(), 300);
    let disk = registry.cluster.disk_snapshot();
    // The log is empty, and transactions that note nothing go by.
    (0..5).for_each(|_| drop(registry.sql("SELECT pg_current_xact_id()")));
    let targets =
        ["empty.mbtiles", "reseeded.mbtiles", "narrow.mbtiles", "parts/", "watched.mbtiles", "served.mbtiles"];
    let targets = targets.map(|name| registry.seeded(name, &ZOOM));
    let [empty, reseeded, narrow, parts, watched, served] = &targets;
    assert_eq!(manifest(empty)["witness"]["transactions"], 0);
    let snapshot = |target: &Path| manifest(target)["snapshot"].as_str().unwrap().to_owned();
    let of_narrow = snapshot(narrow);
    let at_zoom_6 = |name: &str| Archive::open(&registry.seeded(name, &["--zoom", "6"])).stored();
    let first = at_zoom_6("first.mbtiles");
    registry.sql(LOST);
    for target in [reseeded, parts, watched, served] {
        registry.reseed(target, &[]).ok();
    }
    assert_eq!(manifest(reseeded)["witness"]["transactions"], 1);
    registry.reseed(narrow, &["--zoom", "0-2"]).ok();
    assert_eq!(snapshot(narrow), of_narrow);

    let (config, url) = (registry.target("c.toml"), registry.url());
    fs::write(&config, format!("{ROWS_LAYER}\n[serve]\nlive_ttl = \"1h\"\n")).unwrap();
    let live = ["--live", "--config", config.to_str().unwrap(), "--database-url", &url];
    let servers = [empty, served].map(|target| Served::new(target.to_str().unwrap(), &live));
    for server in &servers {
        until("it follows the log", || server.admin("/status.json").1.contains("\"followed\":true"));
    }
    let lost = at_zoom_6("lost.mbtiles");
    let changed = differences(&first, &lost);
    let (z, x, y) = *changed.iter().find(|tile| first.contains_key(tile) && lost.contains_key(tile)).unwrap();
    let path = format!("/{z}/{x}/{y}.pbf");
    for server in &servers {
        assert!(server.get(&path, GZIP).body == lost[&(z, x, y)]);
    }
    let watching = Watching::start(&url, watched, &["--poll", "1s"]);
    registry.sql(&LOST.replace("'lost'", "'lost again'"));
    watching.says(" dirty tile");

    registry.cluster.restore(&disk, |url| Registry::goes_on(&with_database(url, &registry.name)));
    let now = Archive::open(&registry.seeded("now.mbtiles", &["--zoom", "6"])).stored();
    assert!(now[&(z, x, y)] != lost[&(z, x, y)]);
    watching.says(OTHER);
    assert_eq!(watching.ended(), 4);
    for server in &servers {
        until("it shows what is there", || server.get(&path, GZIP).body == now[&(z, x, y)]);
    }

    let tile_list = registry.target("list.txt");
    fs::write(&tile_list, "0/0/0\n").unwrap();
    for arguments in [&[][..], &["--dry-run"], &["--tiles", tile_list.to_str().unwrap()], &["--zoom", "0-1"]] {
        registry.reseed(reseeded, arguments).fails(4, &[OTHER]);
    }
    registry.reseed(narrow, &[]).fails(4, &[OTHER]);
    registry.reseed(empty, &[]).fails(4, &[OTHER]);
    let named = reseeded.to_str().unwrap();
    let status = registry.verb(&["track", "status", named]);
    assert!(status.code == 4 && status.stdout.contains(OTHER), "{}{}", status.stdout, status.stderr);
    registry.verb(&["track", "prune", named]).fails(4, &[OTHER]);
    let doctor = registry.verb(&["doctor", named]);
    assert!(doctor.code != 0 && doctor.stdout.contains(OTHER), "{}{}", doctor.stdout, doctor.stderr);
    let mended = registry.reseed(reseeded, &["--or-seed"]).ok();
    assert!(mended.stderr.contains(OTHER), "{}", mended.stderr);
    registry.is_fresh(reseeded);
    assert!(registry.reseed(reseeded, &[]).ok().stdout.starts_with("nothing to do"));
    // A seed of a part does not vouch for the others.
    seed(&url, parts, &["--zoom", "0-2"]).ok();
    registry.reseed(parts, &[]).fails(4, &[OTHER]);
    registry.reseed(parts, &["--or-seed"]).ok();
    assert!(registry.reseed(parts, &[]).ok().stdout.starts_with("nothing to do"));
}

/// A standby shows what was committed while another transaction runs; its cursor does not see that.
#[test]
fn targets_of_a_standby_that_show_a_lost_change_need_a_seed() {
    let mut primary = Registry::on(Cluster::new(), 300);
    let reseeded = primary.seeded("reseeded.mbtiles", &ZOOM);
    let config = family(&primary);
    let with_config = ["--config", config.to_str().unwrap()];
    primary.verb(&[&["seed", "--progress", "none"], &with_config[..]].concat()).ok();
    let disk = primary.cluster.disk_snapshot();
    let standby = primary.at(Cluster::standby_of(&primary.cluster));
    let running = Connection::open(&primary.url(), "running");
    running.run("BEGIN; SELECT pg_current_xact_id()");
    primary.sql(LOST);
    until("it has caught up", || standby.sql("SELECT count(*) FROM oar_tiles.change") != "0");
    let [seeded, used] = ["seeded.mbtiles", "used.mbtiles"].map(|name| primary.target(name));
    for target in [&seeded, &used] {
        seed(&standby.url(), target, &ZOOM).ok();
    }
    let reseed_all = |at: &Registry| at.verb(&[&["reseed", "--progress", "none"], &with_config[..]].concat());
    standby.reseed(&reseeded, &[]).ok();
    reseed_all(&standby).ok();
    // Nothing is lost yet, and the transaction still runs.
    reseed_all(&standby).ok();
    for at in [&standby, &primary] {
        at.reseed(&used, &[]).ok();
    }
    running.run("ROLLBACK");
    primary.reseed(&used, &[]).ok();
    primary.is_fresh(&used);
    assert!(primary.reseed(&used, &[]).ok().stdout.starts_with("nothing to do"));
    drop((running, standby));
    primary.cluster.restore(&disk, |_| ());
    Registry::goes_on(&primary.url());
    for target in [&seeded, &reseeded] {
        primary.reseed(target, &[]).fails(4, &[OTHER]);
    }
    reseed_all(&primary).fails(4, &[OTHER]);
}

/// The configuration of a family of two variants.
fn family(registry: &Registry) -> PathBuf {
    let config = registry.target("family.toml");
    let text = format!(
        "[tileset]\nname = \"family\"\nzoom = \"0-5\"\n[tileset.variants]\nvalues = [{{ part = \"x\" }}, {{ part = \"y\" }}]\nwhere = {{ facilities = \"id <> !part!\" }}\noutput = \"{}/of-{{part}}.mbtiles\"\n{ROWS_LAYER}",
        registry.folder.path().display(),
    );
    fs::write(&config, text).unwrap();
    registry.verb(&["track", "install", "--config", config.to_str().unwrap()]).ok();
    config
}

/// A part of a seed shows it as well.
#[test]
fn parts_of_a_seed_from_a_standby_that_show_a_lost_change_are_of_no_use() {
    let mut primary = Registry::on(Cluster::new(), 300);
    let disk = primary.cluster.disk_snapshot();
    let standby = primary.at(Cluster::standby_of(&primary.cluster));
    let running = Connection::open(&primary.url(), "running");
    running.run("BEGIN; SELECT pg_current_xact_id()");
    primary.sql(LOST);
    until("it has caught up", || standby.sql("SELECT count(*) FROM oar_tiles.change") != "0");
    let target = primary.target("t.mbtiles");
    let work = primary.target(".t.mbtiles.oar-tiles/parts/");
    let common = ["--work", work.to_str().unwrap(), "--progress", "none", "--zoom", "0-5"];
    let output = target.to_str().unwrap();
    standby.verb(&[&["shards", "begin", "--shards", "2", "--output", output], &common[..]].concat()).ok();
    standby.verb(&[&["shards", "run", "--shard", "1"], &common[..]].concat()).ok();
    drop((running, standby));
    primary.cluster.restore(&disk, |_| ());
    Registry::goes_on(&primary.url());
    let resumed = primary.verb(&["seed", "--resume", "--progress", "none", "--zoom", "0-5", "--output", output]).ok();
    primary.is_fresh(&target);
    assert!(resumed.stderr.contains("1 of 2 parts of the seed of "), "{}", resumed.stderr);
}

#[test]
fn two_standbys_that_were_promoted_have_histories_of_their_own() {
    let primary = Registry::on(Cluster::new(), 300);
    primary.sql(FOUND);
    let [one, two] = [(), ()].map(|()| primary.at(Cluster::standby_of(&primary.cluster)));
    for standby in [&one, &two] {
        until("it has caught up", || standby.sql("SELECT count(*) FROM oar_tiles.change") != "0");
        standby.cluster.promote();
    }
    let timeline = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)";
    assert_eq!((one.sql(timeline), two.sql(timeline)), ("00000002".to_owned(), "00000002".to_owned()));
    let shared = one.seeded("shared.mbtiles", &ZOOM);
    one.sql(LOST);
    let target = one.seeded("t.mbtiles", &ZOOM);
    let (work, output) = (one.target("work"), one.target("shards.mbtiles"));
    let shards = |at: &Registry, verb: &str, arguments: &[&str]| {
        let common = ["shards", verb, "--work", work.to_str().unwrap(), "--progress", "none", "--zoom", "0-5"];
        at.verb(&[&common, arguments].concat())
    };
    shards(&one, "begin", &["--shards", "2", "--output", output.to_str().unwrap()]).ok();
    shards(&one, "run", &["--shard", "1"]).ok();
    Registry::goes_on(&two.url());
    two.reseed(&target, &[]).fails(4, &[OTHER]);
    // What both have in common shows no other history.
    two.reseed(&shared, &[]).ok();
    two.is_fresh(&shared);
    let why = "it shows changes that the database's change log does not hold any more";
    shards(&two, "run", &["--shard", "2"]).fails(1, &[why, "Give every shard and the commit the database of begin"]);
    shards(&one, "run", &["--shard", "2"]).ok();
    shards(&two, "commit", &[]).fails(1, &[why]);
    shards(&one, "commit", &[]).ok();
}

#[test]
fn the_timeline_of_a_standby_is_unknown_and_its_log_decides() {
    let old = Registry::on(Cluster::new(), 300);
    let [new, reader] = [(), ()].map(|()| old.at(Cluster::standby_of(&old.cluster)));
    old.sql(FOUND);
    // The reader is the first that hears no more of the primary: it could not follow one that is behind it.
    for standby in [&reader, &new] {
        until("it has caught up", || standby.sql("SELECT count(*) FROM oar_tiles.change") != "0");
        standby.sql("ALTER SYSTEM SET primary_conninfo = ''");
        standby.sql("SELECT pg_reload_conf()");
        until("it is alone", || standby.sql("SELECT count(*) FROM pg_stat_wal_receiver") == "0");
    }
    old.sql(LOST);
    let target = old.seeded("t.mbtiles", &ZOOM);
    old.cluster.crash();
    new.cluster.promote();
    let host = new.cluster.path();
    let port = psql(&new.cluster.url, "SHOW port");
    reader.sql(&format!("ALTER SYSTEM SET primary_conninfo = 'host={} port={port} user=oar_tiles'", host.display()));
    reader.sql("SELECT pg_reload_conf()");
    Registry::goes_on(&new.url());
    let count = "SELECT count(*) FROM oar_tiles.change";
    until("it follows the new primary", || reader.sql(count) == new.sql(count));
    let restart_point = "SELECT timeline_id FROM pg_control_checkpoint()";
    assert_eq!(
        (reader.sql(restart_point), manifest(&target)["database"]["timeline"].is_string()),
        ("1".to_owned(), true)
    );
    reader.reseed(&target, &[]).fails(4, &[OTHER]);
    // A target of the new primary, whose timeline is 2, is no other history.
    let fresh = new.seeded("t.mbtiles", &ZOOM);
    new.sql(LOST);
    until("it follows the new primary", || reader.sql(count) == new.sql(count));
    reader.reseed(&fresh, &[]).ok();
    new.is_fresh(&fresh);
    assert!(manifest(&fresh)["database"].get("timeline").is_none(), "{}", manifest(&fresh)["database"]);
    assert!(new.reseed(&fresh, &[]).ok().stdout.starts_with("nothing to do"));
}

#[test]
fn commits_that_a_crash_has_lost_are_another_history() {
    let mut registry = Registry::on(
        Cluster::with(&["synchronous_commit=off", "wal_writer_delay=10000", "bgwriter_lru_maxpages=0"]),
        300,
    );
    let target = registry.seeded("t.mbtiles", &ZOOM);
    registry.sql("CHECKPOINT");
    // The process that would write commits to the disk stands still.
    let writer = registry.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");
    let kill = |signal: &str| assert!(Command::new("kill").args([signal, &writer]).status().unwrap().success());
    kill("-STOP");
    registry.sql(LOST);
    registry.reseed(&target, &[]).ok();
    kill("-KILL");
    registry.cluster.restart();
    assert_eq!(registry.sql("SELECT count(*) FROM api_facility WHERE name = 'lost'"), "0");
    Registry::goes_on(&registry.url());
    registry.reseed(&target, &[]).fails(4, &[OTHER]);
}

#[test]
fn pruning_keeps_what_the_witnesses_of_targets_are_about() {
    let registry = Registry::on(Cluster::new(), 300);
    let kept = "SELECT count(*), count(DISTINCT xid) FROM oar_tiles.change";
    // Each transaction notes an entry for each of its statements.
    let change =
        |round: u32| registry.sql(&format!("BEGIN; {LOST}; UPDATE api_facility SET name = 'r{round}'; COMMIT"));
    (0..135).for_each(|round| drop(change(round)));
    let target = registry.seeded("t.mbtiles", &ZOOM);
    assert_eq!(manifest(&target)["witness"]["transactions"], 64);
    let named = target.to_str().unwrap();
    let prune = || registry.verb(&["track", "prune", named]).ok().stdout;
    assert!(prune().contains(", 0 left\n"));
    assert_eq!(registry.sql(kept), "128|128");
    assert!(registry.reseed(&target, &[]).ok().stdout.starts_with("nothing to do"));
    assert!(prune().starts_with("0 changed rows taken out"));
    (135..138).for_each(|round| drop(change(round)));
    assert!(prune().contains(" left, which not every target has seen yet (track status)\n"));
    registry.reseed(&target, &[]).ok();
    prune();
    assert_eq!(registry.sql(kept), "128|128");
    assert!(registry.reseed(&target, &[]).ok().stdout.starts_with("nothing to do"));
    registry.is_fresh(&target);
    // The log's table may be written anew.
    registry.sql("VACUUM FULL oar_tiles.change");
    change(138);
    registry.reseed(&target, &[]).ok();
    registry.is_fresh(&target);
    // What nobody else may take out is missed.
    registry
        .sql("DELETE FROM oar_tiles.change WHERE xid = (SELECT xid FROM oar_tiles.change ORDER BY xid DESC LIMIT 1)");
    registry.reseed(&target, &[]).fails(4, &[OTHER]);
}

#[test]
fn a_manifest_without_a_witness_is_accepted_once() {
    let registry = Registry::on(Cluster::new(), 300);
    registry.sql(FOUND);
    let target = registry.seeded("t.mbtiles", &ZOOM);
    let said = manifest(&target);
    let mut without = said.clone();
    without.as_object_mut().unwrap().remove("witness");
    let archive = rusqlite::Connection::open(&target).unwrap();
    let sql = "UPDATE metadata SET value = ?1 WHERE name = 'oar_tiles_manifest'";
    assert_eq!(archive.execute(sql, [without.to_string()]).unwrap(), 1);
    drop(archive);
    registry.reseed(&target, &[]).ok();
    assert_eq!(manifest(&target)["witness"]["transactions"], 1);
    assert!(registry.reseed(&target, &[]).ok().stdout.starts_with("nothing to do"));
    registry.is_fresh(&target);
}

/// Servers of a target that share a Redis server. Their live tiles age slowly.
struct Fleet {
    redis: Redis,
    target: String,
    config: String,
    url: String,
}

impl Fleet {
    fn of(registry: &Registry) -> Fleet {
        let (redis, target) = (Redis::start("hunter2", &[]), registry.seeded("served.mbtiles", &["--zoom", "0-2"]));
        let (config, url) = (registry.target("c.toml"), registry.url());
        let lines = format!("[serve]\nlive_ttl = \"1h\"\nredis_url = \"{}\"\n", redis.url());
        fs::write(&config, format!("{ROWS_LAYER}\n{lines}")).unwrap();
        let [target, config] = [target, config].map(|path| path.to_str().unwrap().to_owned());
        Fleet { redis, target, config, url }
    }

    fn server(&self) -> Served {
        Served::new(&self.target, &["--live", "--config", &self.config, "--database-url", &self.url])
    }

    /// A server that follows the log.
    fn following(&self) -> Served {
        let server = self.server();
        until("it follows the log", || looked_at(&server).is_string());
        server
    }

    /// Waits until a server takes a tile from Redis, as it is there.
    #[track_caller]
    fn is_taken(&self, path: &str) {
        let keys = self.redis.keys();
        assert_eq!(keys.len(), 1, "{keys:?}");
        let key = keys[0].as_bytes();
        let value = self.redis.ask(&[b"GET", key]);
        // On a busy machine Redis or the database may be asked in vain: then the tile is rendered, and replaces what is
        // in Redis.
        until("a server takes it", || {
            self.redis.ask(&[b"SET", key, &value]);
            self.server().get(path, GZIP).header("cache-status") == Some("oar-tiles; hit; detail=redis")
        });
    }
}

/// The database state of a server's last look into the log, if it follows it.
fn looked_at(server: &Served) -> Value {
    let status: Value = serde_json::from_str(&server.admin("/status.json").1).unwrap();
    let log = &status["change_log"];
    if log["followed"] == true { log["snapshot"].clone() } else { Value::Null }
}

#[test]
fn no_server_answers_a_live_tile_of_another_history_from_memory_or_redis() {
    let mut registry = Registry::on(Cluster::new(), 300);
    let at_zoom_6 = |name: &str| Archive::open(&registry.seeded(name, &["--zoom", "6"])).stored();
    // A tile that one history changes, and the other does not.
    let zero = at_zoom_6("zero.mbtiles");
    registry.sql(&LOST.replace("lost", "old"));
    let one = at_zoom_6("one.mbtiles");
    registry.sql(FOUND);
    let two = at_zoom_6("two.mbtiles");
    let others = differences(&one, &two);
    let tile = differences(&zero, &one).into_iter().find(|tile| !others.contains(tile) && two.contains_key(tile));
    let (z, x, y) = tile.unwrap();
    let (path, expected) = (format!("/{z}/{x}/{y}.pbf"), &two[&(z, x, y)]);
    let (disk, name) = (registry.cluster.disk_snapshot(), registry.name.clone());
    for passes_the_numbers_again in [true, false] {
        let fleet = Fleet::of(&registry);
        let kept = fleet.following();
        // No look finds the change before it is lost.
        let blocking = Connection::open(&fleet.url, "somebody");
        blocking.run("BEGIN; LOCK TABLE oar_tiles.state");
        registry.sql(LOST);
        let lost = kept.get(&path, GZIP);
        assert!(lost.body != *expected && lost.header("cache-status") == Some("oar-tiles; fwd=uri-miss; stored"));
        until("it is in Redis", || fleet.redis.ask(&[b"DBSIZE"]) == b"1");
        registry.cluster.restore(&disk, |url| {
            if passes_the_numbers_again {
                Registry::goes_on(&with_database(url, &name));
            }
        });
        assert!(fleet.server().get(&path, GZIP).body == *expected, "from Redis");
        until("it shows what is there", || kept.get(&path, GZIP).body == *expected);
    }
}

#[test]
fn a_server_that_has_seen_what_a_restored_disk_has_lost_answers_what_is_there() {
    let mut registry = Registry::on(Cluster::new(), 300);
    let fleet = Fleet::of(&registry);
    let disk = registry.cluster.disk_snapshot();
    let server = fleet.following();
    let path = "/4/11/6.pbf";
    let before = server.get(path, GZIP).body;
    registry.sql("UPDATE api_facility SET name = 'lost'");
    until("it has looked", || server.get(path, GZIP).body != before);
    // The database comes to none of the lost transaction numbers.
    registry.cluster.restore(&disk, |_| ());
    until("it shows what is there", || server.get(path, GZIP).body == before);
}

#[test]
fn live_tiles_of_this_history_stay_in_memory_and_redis_after_a_restart_and_a_prune_and_without_a_change() {
    let mut registry = Registry::on(Cluster::new(), 300);
    let fleet = Fleet::of(&registry);
    let path = "/4/11/6.pbf";
    let asked = |server: &Served| server.get(path, GZIP).header("cache-status").unwrap().to_owned();
    let rendered = |server: &Served| {
        assert_eq!(asked(server), "oar-tiles; fwd=uri-miss; stored");
        until("it is in Redis", || fleet.redis.ask(&[b"DBSIZE"]) == b"1");
    };
    let first = fleet.following();
    rendered(&first);
    fleet.is_taken(path);
    // More changes than pruning leaves alone. They touch another tile.
    let last = "SELECT id FROM api_facility ORDER BY ST_X(location) DESC LIMIT 1";
    let change = |round: u32| format!("UPDATE api_facility SET name = 'r{round}' WHERE id = ({last})");
    (0..70).for_each(|round| drop(registry.sql(&change(round))));
    registry.reseed(Path::new(&fleet.target), &["--config", &fleet.config]).ok();
    fleet.redis.ask(&[b"FLUSHALL"]);
    let second = fleet.following();
    rendered(&second);
    let pruned = registry.verb(&["track", "prune", &fleet.target]).ok().stdout;
    assert!(pruned.contains(", 0 left\n") && !pruned.starts_with("0 changed rows"), "{pruned}");
    fleet.is_taken(path);
    let looked = [&first, &second].map(looked_at);
    registry.cluster.restart();
    fleet.is_taken(path);
    registry.sql(&change(70));
    for (server, before) in [&first, &second].into_iter().zip(looked) {
        until("it has looked", || looked_at(server) != before && looked_at(server).is_string());
        assert_eq!(asked(server), "oar-tiles; hit");
    }
}
