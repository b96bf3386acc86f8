//! Several tilesets in one configuration.

mod changing;
mod messages;
mod seeding;
mod sharing;

use std::path::PathBuf;

use crate::support::Db;
use crate::support::folder::Folder;
use crate::support::program::{Run, program, run};

/// The layers: all facilities, and those whose id ends with a digit from 0 to 4.
const LAYERS: &str = "[[layer]]
name = \"facilities\"
table = \"api_facility\"
geometry = \"location\"
key = [\"id\"]
properties = [\"id\", \"name\"]
[[layer]]
name = \"low\"
table = \"api_facility\"
geometry = \"location\"
key = [\"id\"]
properties = [\"country_code\"]
where = \"right(id, 1) < '5'\"
";

/// The tilesets: everything, one layer in an archive of the other kind, and a part of the world in a folder. Each is
/// the text of its keys.
const TILESETS: [&str; 3] = [
    "name = \"whole\"\noutput = \"FOLDER/whole.mbtiles\"",
    "name = \"low\"\nlayers = [\"low\"]\nzoom = \"0-4\"\noutput = \"FOLDER/low.pmtiles\"",
    "name = \"part\"\nlayers = [\"facilities\"]\nbbox = [\"0,-60,180,80\"]\noutput = \"FOLDER/part\"\n[KIND.target]\ntemplate = \"{z}-{x}-{y}.mvt\"\ncompression = \"none\"",
];

const NAMES: [&str; 3] = ["whole.mbtiles", "low.pmtiles", "part"];

/// A database with facilities, and a folder.
struct World {
    db: Db,
    folder: Folder,
}

impl World {
    fn new() -> World {
        World { db: Db::with_facilities(400), folder: Folder::new() }
    }

    /// A file of the world's folder with all three tilesets.
    fn several(&self) -> String {
        let tilesets = TILESETS.map(|keys| format!("[[tileset]]\n{}\n", keys.replace("KIND.", "tileset."))).concat();
        self.file("several.toml", &format!("[tileset_defaults]\nzoom = \"0-5\"\n{tilesets}{LAYERS}"))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        let folder = path.parent().unwrap().to_str().unwrap();
        std::fs::write(&path, text.replace("FOLDER", folder)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.beside(name)
    }

    fn oar_tiles(&self, config: &str, arguments: &[&str]) -> Run {
        run(program().args(arguments).args(["--config", config, "--database-url", &self.db.url]))
    }

    /// Copies a target into an archive, so that targets of all kinds can be compared.
    fn archive_of(&self, target: &str, name: &str) -> PathBuf {
        let archive = self.path(name);
        let (target, text) = (self.path(target), archive.to_str().unwrap());
        run(program().args(["copy", "--force", target.to_str().unwrap(), text])).ok();
        archive
    }
}
