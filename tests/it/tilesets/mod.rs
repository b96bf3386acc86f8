//! Several tilesets in one configuration.

mod changing;
mod messages;
mod seeding;
mod sharing;

use crate::support::Db;
use crate::support::world::World;

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

impl World {
    fn with_facilities() -> World {
        World::of(Db::with_facilities(400))
    }

    /// A file of the world's folder with all three tilesets.
    fn several(&self) -> String {
        let tilesets = TILESETS.map(|keys| format!("[[tileset]]\n{}\n", keys.replace("KIND.", "tileset."))).concat();
        self.file("several.toml", &format!("[tileset_defaults]\nzoom = \"0-5\"\n{tilesets}{LAYERS}"))
    }
}
