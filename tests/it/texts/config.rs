//! What `oar-tiles config` prints: the defaults, and values of every origin.

use crate::support::folder::Folder;
use crate::support::program::{bare_program, run};
use crate::texts::compare;

#[test]
fn the_defaults() {
    compare("config_defaults", &run(bare_program().arg("config")).ok().stdout);
}

#[test]
fn values_of_every_origin_with_secrets_hidden() {
    let folder = Folder::new();
    let config = folder.config(
        "[database]\nurl = \"postgresql://reader:hunter2@db.example.org:5433/registry\"\nstatement_timeout = \"1h\"\n\n[tileset]\nname = \"registry\"\noutput = \"registry.pmtiles\"\n\n[s3]\nendpoint = \"https://me:hunter2@s3.example.org\"\n",
    );
    let mut command = bare_program();
    command.args(["config", "--config", &config, "--zoom", "0-9"]).env("OAR_TILES_BBOX", "5.9,45.8,10.5,47.8");
    let shown = run(&mut command).ok().stdout;
    assert!(!shown.contains("hunter2"));
    let changed = shown.replace(&config, "c.toml");
    let lines: Vec<&str> = changed.lines().filter(|line| !line.ends_with("# default")).collect();
    compare("config_origins", &lines.join("\n"));
}
