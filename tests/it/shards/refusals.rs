//! What is refused, and how that is said: exit codes decide what a scheduler does.

use super::helpers::{Sharded, names};
use crate::support::Db;
use crate::support::places::Places;
use crate::support::program::{program, run};
use crate::support::tracked::Tracked;

#[test]
fn without_anything_that_brings_shards_to_one_state_a_run_does_not_begin() {
    let db = Db::with_facilities(20);
    let folder = tempfile::tempdir().unwrap();
    let sharded = Sharded::into(&db, folder.path(), "t.mbtiles");
    let texts = ["there is no change log that would bring all shards to one state", "begin --hold", "--frozen"];
    sharded.verb("begin", &["--shards", "2"]).fails(2, &texts);
    sharded.verb("run", &["--shard", "1"]).fails(
        2,
        &["holds no run: begin one with oar-tiles shards begin", &format!(" --work {} --shards N", sharded.work)],
    );
}

#[test]
fn indexes_settings_and_databases_that_do_not_fit_are_refused() {
    let tracked = Tracked::facilities(60);
    let mut sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    let id = sharded.begin(3, &[]);
    sharded.verb("begin", &["--shards", "3"]).fails(
        1,
        &[
            &format!("holds run {id} already"),
            &format!(" --work {}, give it up with oar-tiles shards abort", sharded.work),
        ],
    );
    let with = |variables: &[(&str, &str)]| {
        let mut command = sharded.command("run", &[]);
        run(command.envs(variables.iter().copied()))
    };
    with(&[]).fails(2, &["which shard is this? Write --shard 1/3 to --shard 3/3"]);
    with(&[("JOB_COMPLETION_INDEX", "3")]).fails(2, &["JOB_COMPLETION_INDEX = 3 is shard 4, and run "]);
    with(&[("JOB_COMPLETION_INDEX", "0"), ("PARALLEL_SEQ", "1")])
        .fails(2, &["JOB_COMPLETION_INDEX and PARALLEL_SEQ are both set"]);
    with(&[("PARALLEL_SEQ", "1")]).fails(2, &["which shard is this? Write --shard 1/3 to --shard 3/3"]);
    with(&[("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_MIN", "1"), ("SLURM_ARRAY_TASK_STEP", "1")]).ok();
    let status = sharded.verb("status", &["--json"]).ok();
    let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!((&status["done"], &status["missing"]), (&1.into(), &2.into()), "{status}");
    assert_eq!(status["shards"][1]["state"], "done", "an array of the second shard alone");

    sharded.verb("commit", &[]).fails(
        1,
        &[
            "2 of 3 shards of run ",
            " are not done: 1,3. Run these again",
            "If they end with 4, give the run up with oar-tiles shards abort",
        ],
    );
    sharded
        .verb("run", &["--shard", "1", "--output", "other.mbtiles"])
        .fails(2, &["was begun with other settings: output"]);
    let config = tracked.path("other.toml");
    let layer = "[[layer]]\nname = \"facilities\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]\nbuffer = 7\n";
    std::fs::write(&config, layer).unwrap();
    let config = config.to_str().unwrap().to_owned();
    sharded.verb("run", &["--shard", "1", "--config", &config]).fails(2, &["their fingerprint is "]);
    let stranger = Db::with_facilities(60);
    let ours = std::mem::replace(&mut sharded.db, &stranger);
    sharded.verb("run", &["--shard", "1"]).fails(1, &["its plan is of another database ("]);
    sharded.db = ours;
    sharded.verb("abort", &[]).ok();
    sharded.verb("run", &["--shard", "1"]).fails(2, &["holds no run"]);
    sharded.work = sharded.target.clone();
    sharded.verb("begin", &["--shards", "3"]).fails(2, &["--work "]);
}

#[test]
fn a_run_that_is_given_up_ends_its_shards_with_4_and_connections_are_shared() {
    let tracked = Tracked::facilities(60);
    let sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    let id = sharded.begin(2, &["--connections", "3"]);
    // Somebody has the one place.
    let slot = sharded.notes(&id).join("slot-0.json");
    std::fs::create_dir_all(slot.parent().unwrap()).unwrap();
    std::fs::write(&slot, r#"{"id":"x","holder":"another","lease":600000,"renewed":0}"#).unwrap();
    let waiting = sharded.start("run", &["--shard", "1", "--workers", "1"]);
    std::thread::sleep(std::time::Duration::from_millis(700));
    sharded.verb("abort", &[]).ok();
    let run = crate::support::program::wait(waiting);
    run.fails(4, &[&format!("run {id} in "), " was given up: begin again"]);
}

#[test]
fn a_work_folder_that_holds_something_else_is_refused_and_nothing_of_it_is_removed() {
    let tracked = Tracked::facilities(20);
    let places = Places::new();
    let keys = &places.prefix.keys;
    for name in ["theirs/", "s3:theirs/"] {
        let mut sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
        sharded.work = places.place(name);
        sharded.more.extend(["--config".to_owned(), places.config.clone()]);
        sharded.variables = vec![
            ("AWS_ACCESS_KEY_ID".to_owned(), keys.key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), keys.secret.clone()),
            ("OAR_TILES_CONFIG".to_owned(), places.config.clone()),
        ];
        if name.starts_with("s3:") {
            places.prefix.put("theirs/letters.txt", b"dear");
        } else {
            std::fs::create_dir(&sharded.work).unwrap();
            std::fs::write(format!("{}letters.txt", sharded.work), "dear").unwrap();
        }
        sharded.verb("begin", &["--shards", "2"]).fails(2, &["holds letters.txt, which is no part of a run: nothing"]);
        sharded.verb("abort", &[]).fails(2, &["holds no run"]);
        if name.starts_with("s3:") {
            assert_eq!(places.prefix.objects().into_keys().collect::<Vec<_>>(), ["theirs/letters.txt"]);
        } else {
            assert_eq!(names(std::path::Path::new(&sharded.work), ""), ["letters.txt"]);
        }
    }
}

#[test]
fn tiles_that_cannot_be_rendered_end_the_commit_with_3_and_no_shard() {
    let tracked = Tracked::facilities(60);
    tracked.db.run(
        "INSERT INTO api_facility VALUES ('lonely', '', 'A', 'NZ', ST_SetSRID(ST_MakePoint(-150, -40), 4326), false, now(), now())",
    );
    let config = tracked.path("skip.toml");
    std::fs::write(
        &config,
        "[[layer]]\nname = \"mills\"\ntable = \"api_facility\"\ngeometry = \"location\"\nkey = [\"id\"]\non_tile_error = \"skip\"\n\
         properties = { id = \"id\", letters = \"1000 / length(name)\" }\n",
    )
    .unwrap();
    tracked.oar_tiles(&["track", "install", "--config", config.to_str().unwrap()]).ok();
    let mut sharded = Sharded::into(&tracked.db, tracked.folder.path(), "t.mbtiles");
    sharded.more.extend(["--config".to_owned(), config.to_str().unwrap().to_owned()]);
    sharded.begin(3, &[]);
    (1..=3).for_each(|shard| drop(sharded.run(shard).ok()));
    sharded.verb("commit", &[]).fails(3, &["layer \"mills\" in "]);
    assert!(std::path::Path::new(&sharded.target).exists(), "what could be rendered is published");
    // Mended before the commit, it is whole.
    sharded.begin(3, &[]);
    (1..=3).for_each(|shard| drop(sharded.run(shard).ok()));
    tracked.db.run("UPDATE api_facility SET name = 'Mended' WHERE id = 'lonely'");
    sharded.verb("commit", &[]).ok();
    tracked.is_fresh(std::path::Path::new(&sharded.target), &["--zoom", "0-7", "--config", config.to_str().unwrap()]);
}

/// Shards are strips of one target: several targets are jobs of their own.
#[test]
fn a_configuration_with_several_targets_is_refused_before_anything_is_read_and_told_what_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (config, work) = (path("map.toml"), path("work/"));
    let layer = "[[layer]]\nname = \"points\"\ntable = \"points\"\ngeometry = \"geom\"\nkey = [\"id\"]\n";
    let two = "[[tileset]]\nname = \"a\"\noutput = \"a.mbtiles\"\n[[tileset]]\nname = \"b\"\noutput = \"b/\"\n";
    let family = "[tileset]\nname = \"f\"\n[tileset.variants]\nvalues = [{ c = \"x\" }]\nwhere = { points = \"c = !c!\" }\noutput = \"{c}.mbtiles\"\n";
    for (text, said) in [
        (
            two,
            [
                "shards divides one tileset, and this configuration has several tilesets (a, b): choose one with --tileset NAME, or seed them in an array job, each job with oar-tiles seed",
                " --tileset NAME",
            ],
        ),
        (
            family,
            [
                "shards divides one tileset, and this configuration has variants (f): seed them in an array job, each job with oar-tiles seed",
                " --variant VALUE",
            ],
        ),
    ] {
        std::fs::write(&config, format!("{layer}{text}")).unwrap();
        for (verb, more) in [("begin", &["--shards", "2"][..]), ("run", &["--shard", "1"]), ("commit", &[])] {
            let mut command = program();
            // Nobody listens at this address.
            command.args(["shards", verb, "--work", &work, "--config", &config]).args(more);
            run(command.args(["--database-url", "postgresql://127.0.0.1:1/none"])).fails(2, &said);
        }
    }
    assert!(!std::path::Path::new(&work).exists());
}
