//! Copies of several sources, and of some layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::folder::Folder;
use crate::support::program::{Run, program, run};
use crate::support::{Archive, Db};

const LAYERS: &str = "[tileset]\nzoom = \"0-6\"
[[layer]]\nname = \"all\"\ntable = \"api_facility\"\ngeometry = \"location\"\nproperties = [\"name\"]
[[layer]]\nname = \"low\"\ntable = \"api_facility\"\ngeometry = \"location\"\nproperties = [\"id\"]\nwhere = \"right(id, 1) < '5'\"
";

struct World {
    db: Db,
    folder: Folder,
    config: String,
}

impl World {
    fn new() -> World {
        let (db, folder) = (Db::with_facilities(300), Folder::new());
        let config = folder.config(LAYERS);
        World { db, folder, config }
    }

    fn seed(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let target = self.folder.beside(name);
        let mut command = program();
        command.args(["seed", "--progress", "none", "--database-url", &self.db.url, "--config", &self.config]);
        run(command.arg("--output").arg(&target).args(arguments)).ok();
        target
    }

    fn copy(&self, sources: &[&Path], name: &str, arguments: &[&str]) -> Run {
        run(program().arg("copy").args(sources).arg(self.folder.beside(name)).args(arguments))
    }

    /// The tiles of a target of any kind, unpacked.
    fn tiles(&self, name: &str) -> BTreeMap<(u8, u32, u32), Vec<u8>> {
        let (from, archive) = (self.folder.beside(name), self.folder.beside("read.mbtiles"));
        run(program().args(["copy", "--force"]).arg(from).arg(&archive)).ok();
        Archive::open(&archive).tiles()
    }
}

#[test]
fn sources_with_other_zooms_or_layers_are_joined() {
    let world = World::new();
    world.seed("both.mbtiles", &[]);
    let low_zooms = world.seed("z0-3.mbtiles", &["--zoom", "0-3"]);
    let high_zooms = world.seed("z4-6.pmtiles", &["--zoom", "4-6"]);
    let whole = world.tiles("both.mbtiles");
    for name in ["joined.mbtiles", "joined.pmtiles", "joined"] {
        let done = world.copy(&[&high_zooms, &low_zooms], name, &[]).ok();
        assert!(done.stdout.contains(", joined without manifest: "), "{}", done.stdout);
        assert!(done.stdout.contains("z4-6.pmtiles + "), "{}", done.stdout);
        assert!(world.tiles(name) == whole, "{name}");
    }
    let all = world.seed("all.mbtiles", &["--layer", "all"]);
    let low = world.seed("low", &["--layer", "low"]);
    world.copy(&[&all, &low], "layers.mbtiles", &[]).ok();
    assert!(
        world.tiles("layers.mbtiles") == whole,
        "tiles of both have the layers of both, in the order of the sources"
    );
    let verified = world.folder.beside("layers.mbtiles");
    run(program().arg("verify").arg(&verified)).ok();
    let shown = run(program().args(["inspect", "--json"]).arg(&verified)).ok();
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["zooms"].as_array().unwrap().len(), 7, "{shown}");

    let both = world.folder.beside("both.mbtiles");
    let refused = world.copy(&[&low, &both], "twice.mbtiles", &[]);
    let says = "has the layer \"low\", and so has that tile of ";
    refused.fails(2, &["both.mbtiles: tile 0/0/0 ", says, "Choose zooms, boxes or layers, so that they share none"]);
    assert!(!world.folder.beside("twice.mbtiles").exists());
    // What is copied of both does not overlap.
    world.copy(&[&low, &both], "chosen.mbtiles", &["--zoom", "0-2", "--layer", "all"]).ok();
    let chosen = world.tiles("chosen.mbtiles");
    assert_eq!(chosen.keys().map(|tile| tile.0).max(), Some(2));
    world.copy(&[&both, &both], "itself.mbtiles", &[]).fails(2, &["tile 0/0/0 has the layer"]);
}

#[test]
fn a_copy_of_a_layer_is_what_a_seed_of_it_makes() {
    let world = World::new();
    let both = world.seed("both.mbtiles", &[]);
    world.seed("low.mbtiles", &["--layer", "low"]);
    for name in ["copy.mbtiles", "copy.pmtiles", "copy"] {
        let done = world.copy(&[&both], name, &["--layer", "low"]).ok();
        assert!(done.stdout.contains(", some layers without manifest: "), "{}", done.stdout);
        assert!(world.tiles(name) == world.tiles("low.mbtiles"), "{name}: without tiles that do not have the layer");
        run(program().arg("verify").arg(world.folder.beside(name))).ok();
    }
    let unknown = world.copy(&[&both], "x.mbtiles", &["--layer", "lwo"]);
    unknown.fails(1, &["both.mbtiles has no layer \"lwo\": it has all, low"]);
}
