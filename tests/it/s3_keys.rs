//! A bucket without a region or credentials: one message, and nothing of the SDK's own log unless it is asked for.

use std::process::Command;

use super::support::Db;
use super::support::program::{Run, program, run};

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
