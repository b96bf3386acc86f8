//! What a user is told where a container cannot be reached or does not take what the configuration wants.

use std::path::Path;
use std::process::Command;

use crate::support::Db;
use crate::support::azure::{Container, with_account};
use crate::support::program::{over_rows, run, seed_command};

fn seeding(db: &Db, output: &str) -> Command {
    let mut command = seed_command(&db.url, Path::new(output), &["--zoom", "0"]);
    with_account(&mut command);
    command
}

#[test]
fn each_says_what_where_and_what_to_do() {
    let (db, container) = (Db::with_facilities(5), Container::new());
    let place = container.place("t/");
    let wrong_key = "bm90IHRoZSBrZXk=";
    let refused = run(seeding(&db, &place).env("AZURE_STORAGE_ACCOUNT_KEY", wrong_key));
    let said = "refuses the credentials for az://oar-tiles-tests/";
    let next = "check AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or what else says who asks";
    let refused = refused.fails(1, &[said, next, "cause: HTTP 403 "]);
    assert!(!refused.stderr.contains(wrong_key), "{}", refused.stderr);

    let missing = run(&mut seeding(&db, "az://no-such-container/t/"));
    missing.fails(2, &["there is no container \"no-such-container\" at http://127.0.0.1:", "ContainerNotFound"]);

    let nobody = run(seeding(&db, &place).env_remove("AZURE_STORAGE_ACCOUNT_NAME"));
    nobody.fails(2, &["no credentials for az://oar-tiles-tests/", "set AZURE_STORAGE_ACCOUNT_NAME, and "]);

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.toml");
    std::fs::write(&config, over_rows("[s3]\nattempts = 1\n")).unwrap();
    let away =
        run(seeding(&db, &place).env("AZURE_ENDPOINT", "http://127.0.0.1:1/maps").env("OAR_TILES_CONFIG", &config));
    away.fails(
        1,
        &["cannot reach http://127.0.0.1:1/maps to read ", "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_ENDPOINT"],
    );

    for (setting, message) in [
        ("metadata = { surrogate-key = \"a\" }", "the name \"surrogate-key\" of metadata cannot be stored in az://"),
        ("encryption = \"AES256\"", "encryption is S3's: az://"),
    ] {
        std::fs::write(&config, over_rows(&format!("[s3]\n{setting}\n"))).unwrap();
        run(seeding(&db, &place).env("OAR_TILES_CONFIG", &config)).fails(2, &[message]);
    }
}
