//! A new version of an S3 prefix, which shards write themselves: nobody sees it before the commit, and nothing that
//! comes late changes it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::helpers::{Sharded, write};
use crate::support::places::{Places, Tiles, parsed};
use crate::support::program::{signal, wait};
use crate::support::proxy::{Fault, Proxy, SLOW_DOWN, Seen};
use crate::support::s3::{Prefix, keys};
use crate::support::tracked::{Tracked, differences};
use crate::support::until;

/// A target with versions behind a proxy, a work folder beside it.
pub(super) fn versioned<'a>(tracked: &'a Tracked, places: &Places) -> Sharded<'a> {
    let text = std::fs::read_to_string(&places.config).unwrap();
    let text = text.replace("lease = \"2s\"", "lease = \"20s\"");
    let target = "[target]\ntemplate = \"{version}/{z}/{x}/{y}.pbf\"\npublish = \"versioned\"\nkeep_versions = 1\nkeep_for = \"0s\"\n";
    std::fs::write(&places.config, text + target).unwrap();
    let keys = &places.prefix.keys;
    Sharded {
        db: &tracked.db,
        target: places.place("s3:t/"),
        work: places.place("work/"),
        more: ["--zoom", "0-4", "--config", &places.config].map(str::to_owned).to_vec(),
        variables: vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), keys.key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), keys.secret.clone()),
            ("OAR_TILES_CONFIG".to_owned(), places.config.clone()),
        ],
    }
}

/// The tiles of all versions, by the names of the versions.
pub(super) fn versions(places: &Places) -> BTreeMap<String, Tiles> {
    let mut versions: BTreeMap<String, Tiles> = BTreeMap::new();
    for (name, body) in places.prefix.tiles() {
        let (version, tile) = name.strip_prefix("t/").unwrap().split_once('/').unwrap();
        let tile = parsed(tile.strip_suffix(".pbf").unwrap());
        versions.entry(version.to_owned()).or_default().insert(tile, body);
    }
    versions
}

/// The version that clients see.
pub(super) fn shown(places: &Places) -> String {
    places.prefix.note("t/latest.json").unwrap()["version"].as_str().unwrap().to_owned()
}

/// What a seed into an archive leaves now.
pub(super) fn fresh(tracked: &Tracked, places: &Places) -> Tiles {
    let name = format!("fresh{}.mbtiles", fastrand::u64(..));
    let path = tracked.seed(&name, &["--zoom", "0-4"]);
    drop(path);
    std::fs::rename(tracked.path(&name), places.place(&name)).unwrap();
    places.read_by_others(&name)
}

/// The tiles that are not empty ones: those stand where a request that is still under way must not add another tile.
pub(super) fn filled(tiles: Tiles) -> Tiles {
    tiles.into_iter().filter(|(_, body)| body.len() > 20).collect()
}

#[test]
fn shards_write_a_version_and_the_commit_sends_what_changed_since() {
    let tracked = Tracked::facilities(200);
    let proxy = Proxy::before(&Prefix::new().endpoint, |_| Fault::None);
    let places = Places::with(Prefix::on(&proxy.endpoint, keys()));
    let sharded = versioned(&tracked, &places);
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..3 {
        sharded.begin(4, &[]);
        let before = (round > 0).then(|| shown(&places));
        for shard in 1..=4 {
            if round == 1 {
                write(&tracked.db, &mut random);
            }
            sharded.run(shard).ok();
        }
        // Nobody sees the version yet.
        assert_eq!(places.prefix.note("t/latest.json").map(|_| shown(&places)), before);
        let fresh = fresh(&tracked, &places);
        proxy.take_seen();
        sharded.verb("commit", &[]).ok();
        let seen = proxy.take_seen();
        let sent = seen.iter().filter(|seen| seen.is_tile()).count();
        // Below the prefix itself there may be millions of tiles.
        let lists = |part: &str| part.starts_with("prefix=") && part.ends_with("t%2F");
        assert!(!seen.iter().any(|seen| seen.target.split(['?', '&']).any(lists)), "round {round}");
        if round == 1 {
            assert!(sent > 0 && sent < fresh.len(), "{sent} of {}", fresh.len());
        } else {
            assert_eq!(sent, 0, "every tile was right already");
        }
        let all = versions(&places);
        assert_eq!(differences(&all[&shown(&places)], &fresh).len(), 0);
        assert_eq!(all.len(), 2.min(round + 1), "old versions go");
        let manifest = places.prefix.note("t/metadata.json").unwrap();
        let manifest: serde_json::Value =
            serde_json::from_str(manifest["oar_tiles_manifest"].as_str().unwrap()).unwrap();
        assert_eq!(manifest["stored"], fresh.len());
    }
}

/// The tiles of an older seed lie in the prefix itself: a commit that took them for those of the run would delete them.
#[test]
fn a_commit_that_writes_no_version_is_refused_where_shards_have_written_one() {
    let tracked = Tracked::facilities(60);
    let places = Places::with(Prefix::new());
    let in_place = std::fs::read_to_string(&places.config).unwrap();
    let sharded = versioned(&tracked, &places);
    let versioned = std::fs::read_to_string(&places.config).unwrap();
    std::fs::write(&places.config, &in_place).unwrap();
    places.seed(&tracked.db, "s3:t/", &["--zoom", "0-4"]).ok();
    let before = places.prefix.tiles();
    std::fs::write(&places.config, versioned).unwrap();
    sharded.begin(1, &[]);
    sharded.run(1).ok();
    std::fs::write(&places.config, in_place).unwrap();
    for verb in [&["run", "--shard", "1"][..], &["commit"]] {
        sharded.verb(verb[0], &verb[1..]).fails(
            2,
            &["was begun with other settings: publish or the template is another one here: the shards of the plan write a new version of the target. Give every shard and the commit the configuration of begin"],
        );
    }
    let after = places.prefix.tiles();
    assert!(before.len() > 20 && before.iter().all(|(name, body)| after.get(name) == Some(body)), "{}", before.len());
}

#[test]
fn a_stopped_shard_that_wakes_after_the_commit_changes_no_tile() {
    let tracked = Tracked::facilities(200);
    // The first attempt comes no further than its first tiles.
    let proxy = Proxy::before(&Prefix::new().endpoint, |seen| {
        if seen.is_tile() { Fault::Slow(Duration::from_millis(40)) } else { Fault::None }
    });
    let places = Places::with(Prefix::on(&proxy.endpoint, keys()));
    let sharded = versioned(&tracked, &places);
    sharded.begin(1, &[]);
    let late = sharded.start("run", &["--shard", "1", "--workers", "1"]);
    until("it has added tiles", || versions(&places).values().any(|tiles| tiles.len() > 30));
    signal(&late, "STOP");
    let there = versions(&places).into_values().next().unwrap();
    proxy.rule(|_| Fault::None);
    // Most tiles of its snapshot are none any more.
    tracked.db.run("DELETE FROM api_facility WHERE id NOT IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 5)");
    sharded.run(1).ok();
    sharded.verb("commit", &[]).ok();
    let before = places.prefix.objects();
    let (published, fresh) = (versions(&places).remove(&shown(&places)).unwrap(), fresh(&tracked, &places));
    assert!(there.len() > fresh.len(), "{} and {}", there.len(), fresh.len());
    assert_eq!(differences(&filled(published), &fresh).len(), 0);
    signal(&late, "CONT");
    wait(late).ok();
    assert!(places.prefix.objects() == before);
}

#[test]
fn a_request_that_a_network_holds_back_adds_no_tile_to_what_is_published() {
    let tracked = Tracked::facilities(100);
    let proxy = Proxy::before(&Prefix::new().endpoint, |seen| {
        let is_held = seen.is_tile() && seen.target.contains("/4/");
        if is_held { Fault::Held } else { Fault::None }
    });
    let places = Places::with(Prefix::on(&proxy.endpoint, keys()));
    let sharded = versioned(&tracked, &places);
    // With one shard, the next attempt would wait for the place that the killed one still has among the connections.
    sharded.begin(4, &[]);
    let killed = sharded.start("run", &["--shard", "4", "--workers", "1"]);
    until("requests are held back", || proxy.held() > 3);
    signal(&killed, "KILL");
    wait(killed);
    proxy.rule(|_| Fault::None);
    tracked.db.run("DELETE FROM api_facility WHERE id NOT IN (SELECT id FROM api_facility ORDER BY md5(id) LIMIT 1)");
    (1..=4).for_each(|shard| drop(sharded.run(shard).ok()));
    sharded.verb("commit", &[]).ok();
    assert!(proxy.held() > 3, "the requests are still under way");
    let tiles = |places: &Places| versions(places).remove(&shown(places)).unwrap();
    let before = tiles(&places);
    assert_eq!(differences(&filled(before.clone()), &fresh(&tracked, &places)).len(), 0);
    proxy.let_go();
    assert!(tiles(&places) == before, "{} tiles came late", tiles(&places).len() - before.len());
}

#[test]
fn a_shard_that_is_run_again_sends_only_tiles_that_are_not_there() {
    let tracked = Tracked::facilities(100);
    let proxy = Proxy::before(&Prefix::new().endpoint, |seen| {
        if seen.is_tile() { Fault::Slow(Duration::from_millis(30)) } else { Fault::None }
    });
    let places = Places::with(Prefix::on(&proxy.endpoint, keys()));
    let sharded = versioned(&tracked, &places);
    // With one shard, the next attempt would wait for the place that the killed one still has among the connections.
    sharded.begin(4, &[]);
    let killed = sharded.start("run", &["--shard", "4", "--workers", "1"]);
    until("it has added tiles", || places.prefix.tiles().len() > 4);
    signal(&killed, "KILL");
    wait(killed);
    let there: Vec<String> = places.prefix.tiles().into_keys().collect();
    proxy.rule(|_| Fault::None);
    proxy.take_seen();
    sharded.run(4).ok();
    let sent: Vec<String> = proxy.take_seen().into_iter().filter(Seen::is_tile).map(|seen| seen.target).collect();
    let again = there.iter().filter(|name| sent.iter().any(|target| target.contains(&***name)));
    assert_eq!(again.count(), 0, "{} were there, {} were sent", there.len(), sent.len());
    (1..=3).for_each(|shard| drop(sharded.run(shard).ok()));
    proxy.take_seen();
    sharded.verb("commit", &[]).ok();
    assert!(!proxy.take_seen().iter().any(Seen::is_tile), "the commit knows which bytes are there");
    let published = versions(&places).remove(&shown(&places)).unwrap();
    assert_eq!(differences(&published, &fresh(&tracked, &places)).len(), 0);
}

#[test]
fn a_version_of_shards_is_left_alone_until_it_is_given_up_and_then_removed() {
    let tracked = Tracked::facilities(60);
    let places = Places::new();
    let sharded = versioned(&tracked, &places);
    sharded.begin(2, &[]);
    sharded.run(1).ok();
    let ours = versions(&places).into_keys().next().unwrap();
    places.seed(&tracked.db, "s3:t/", &["--zoom", "0-4"]).ok();
    assert!(versions(&places).contains_key(&ours), "a seed leaves it alone");
    sharded.run(2).ok();
    sharded.verb("commit", &[]).ok();
    assert_eq!(shown(&places), ours);

    sharded.begin(1, &[]);
    sharded.run(1).ok();
    let theirs: Vec<String> = versions(&places).into_keys().filter(|version| *version > ours).collect();
    sharded.verb("abort", &[]).ok();
    places.seed(&tracked.db, "s3:t/", &["--zoom", "0-4"]).ok();
    assert!(theirs.iter().any(|version| !versions(&places).contains_key(version)), "{theirs:?}");

    // A version that somebody else has removed is not published.
    sharded.begin(1, &[]);
    sharded.run(1).ok();
    for name in places.prefix.objects().keys().filter(|name| name.ends_with("/begun.json")) {
        places.prefix.put(name, b"{}");
    }
    sharded.verb("commit", &[]).fails(4, &["version ", " was given up, or was not published for a week"]);
}

/// Clients keep the tiles of a version for good.
#[test]
fn a_commit_after_one_that_was_killed_once_clients_were_switched_writes_notes_only() {
    let tracked = Tracked::facilities(60);
    let proxy = Proxy::before(&Prefix::new().endpoint, |_| Fault::None);
    let places = Places::with(Prefix::on(&proxy.endpoint, keys()));
    let sharded = versioned(&tracked, &places);
    sharded.whole(1, &[]);
    sharded.begin(1, &[]);
    sharded.run(1).ok();
    proxy.rule(|seen| match &*seen.method {
        "PUT" if seen.target.contains("/t/metadata.json") => Fault::Error(403, "AccessDenied", "no"),
        _ => Fault::None,
    });
    assert!(sharded.verb("commit", &[]).code > 0);
    proxy.rule(|_| Fault::None);
    let (published, before) = (shown(&places), versions(&places));
    tracked.db.run("UPDATE api_facility SET name = name || '!'");
    let again = sharded.verb("commit", &[]).ok();
    assert!(again.stderr.contains(" was committed already, and "), "{}", again.stderr);
    assert_eq!(shown(&places), published);
    assert!(versions(&places) == before);
    let own = places.prefix.objects().into_keys().find(|name| name.ends_with(&format!("/{published}/metadata.json")));
    assert_eq!(places.prefix.note("t/metadata.json"), places.prefix.note(&own.unwrap()));
    sharded.verb("status", &[]).fails(2, &["holds no run"]);
}

#[test]
fn whatever_is_killed_a_version_shows_the_state_of_its_commit() {
    let tracked = Tracked::facilities(150);
    // A server under load: it refuses, and answers are lost.
    let proxy = Proxy::before(&Prefix::new().endpoint, |seen| match seen.number % 11 {
        3 if seen.is_tile() => SLOW_DOWN,
        7 if seen.is_tile() => Fault::Lost,
        _ if seen.is_tile() => Fault::Slow(Duration::from_millis(5)),
        _ => Fault::None,
    });
    let places = Places::with(Prefix::on(&proxy.endpoint, keys()));
    let sharded = versioned(&tracked, &places);
    for round in 0..2 {
        let mut random = fastrand::Rng::with_seed(round);
        let count = random.u32(1..5);
        let killed = |verb: &str, arguments: &[&str], random: &mut fastrand::Rng| {
            let child = sharded.start(verb, arguments);
            std::thread::sleep(Duration::from_millis(random.u64(100..900)));
            signal(&child, "KILL");
            wait(child);
        };
        sharded.begin(count, &[]);
        for shard in 1..=count {
            let shard = shard.to_string();
            write(&tracked.db, &mut random);
            killed("run", &["--shard", &shard], &mut random);
            write(&tracked.db, &mut random);
            let doubles = [0, 1].map(|_| sharded.start("run", &["--shard", &shard]));
            for double in doubles {
                wait(double).ok();
            }
        }
        write(&tracked.db, &mut random);
        killed("commit", &[], &mut random);
        // The lease of one that was killed ends by itself.
        until("it is committed", || {
            let committed = sharded.verb("commit", &[]);
            assert!(
                committed.code == 0
                    || ["holds no run", "another run is writing"].iter().any(|text| committed.stderr.contains(text)),
                "{}",
                committed.stderr
            );
            !committed.stderr.contains("another run is writing")
        });
        let published = versions(&places).remove(&shown(&places)).unwrap();
        assert_eq!(differences(&filled(published), &fresh(&tracked, &places)).len(), 0, "round {round}");
    }
}
