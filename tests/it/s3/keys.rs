//! A bucket without a region or credentials: one message, and nothing of the SDK's own log unless it is asked for.

use std::process::Command;

use crate::support::Db;
use crate::support::program::{Run, program, run};

/// `seed` into a bucket as on a machine that knows nothing of AWS.
fn seeded(db: &Db, home: &std::path::Path, region: Option<&str>, arguments: &[&str]) -> Run {
    let mut command: Command = program();
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("HOME", home).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1");
    if let Some(region) = region {
        command.env("AWS_REGION", region);
    }
    command.args(["seed", "--zoom", "0", "--database-url", &db.url, "--output", "s3://bucket/tiles/"]);
    run(command.args(arguments))
}

#[test]
fn without_region_or_credentials_there_is_the_one_message() {
    let db = Db::with_facilities(5);
    let home = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["-q"], &["-v"], &["--progress", "none"]] {
        let ended = seeded(&db, home.path(), None, arguments);
        assert_eq!(
            (ended.code, ended.stdout.as_str(), ended.stderr.as_str()),
            (2, "", "error: s3://bucket/tiles/: no region is set: set [s3] region or AWS_REGION, such as eu-west-1\n")
        );
    }
    for arguments in [&[][..], &["-q"], &["--progress", "none"]] {
        let ended = seeded(&db, home.path(), Some("eu-west-1"), arguments);
        assert_eq!((ended.code, ended.stdout.as_str()), (2, ""), "{}", ended.stderr);
        let message = "error: no credentials for s3://bucket/tiles/.oar-tiles/lease.json: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile in [s3] profile, or give the machine a role\n  cause: ";
        let cause = ended.stderr.strip_prefix(message).unwrap_or_else(|| panic!("{}", ended.stderr));
        assert!(cause.lines().count() == 1 && cause.len() < 250, "{cause}");
    }
    let ended = seeded(&db, home.path(), None, &["-vv"]);
    assert!(ended.stderr.contains("region") && ended.stderr.lines().count() > 5, "{}", ended.stderr);
    assert!(ended.stderr.ends_with("such as eu-west-1\n"), "{}", ended.stderr);
}

#[test]
fn a_password_in_an_endpoint_is_shown_nowhere() {
    let db = Db::with_facilities(5);
    let home = tempfile::tempdir().unwrap();
    let endpoint = "http://me:hunter2@127.0.0.1:1";
    let config = |text: &str| {
        let path = home.path().join("c.toml");
        let s3 = format!("[s3]\nattempts = 1\nregion = \"eu-west-1\"\n{text}");
        std::fs::write(&path, crate::support::program::over_rows(&s3)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for (text, variable) in [
        (format!("endpoint = \"{endpoint}\"\n"), None),
        (String::new(), Some("OAR_TILES_S3_ENDPOINT")),
        (String::new(), Some("AWS_ENDPOINT_URL")),
        (String::new(), Some("AWS_ENDPOINT_URL_S3")),
    ] {
        let config = config(&text);
        let keys =
            [("AWS_ACCESS_KEY_ID", "k"), ("AWS_SECRET_ACCESS_KEY", "s"), ("HOME", home.path().to_str().unwrap())];
        let command = |verb: &str| {
            let mut command = program();
            command.args([verb, "--config", &config, "--database-url", &db.url, "--output", "s3://bucket/tiles/"]);
            command.envs(keys).envs(variable.map(|name| (name, endpoint)));
            command
        };
        for verbose in [&[][..], &["-vv"]] {
            let ended = run(command("seed").args(verbose));
            let ended = ended.fails(1, &["error: cannot reach http://127.0.0.1:1 to read s3://bucket/tiles/"]);
            assert!(!(ended.stdout + &ended.stderr).contains("hunter2"), "{variable:?} {verbose:?}");
        }
        let shown = run(&mut command("config")).ok().stdout;
        assert!(!shown.contains("hunter2"), "{shown}");
        let is_ours = variable.is_none_or(|name| !name.starts_with("AWS_"));
        assert_eq!(shown.contains("endpoint = \"http://(hidden)@127.0.0.1:1\"  # "), is_ours, "{shown}");
    }
    let wrong = config("endpoint = \"ftp://me:hunter2@h\"\n");
    let ended = seeded(&db, home.path(), None, &["--config", &wrong]);
    let ended =
        ended.fails(2, &["[s3] endpoint = \"ftp://h\" is no address: write https://host or http://host:port\n"]);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}
