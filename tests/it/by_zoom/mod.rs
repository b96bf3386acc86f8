//! What a layer draws differs by zoom: conditions, zooms of a row, simplified shapes.

pub(crate) mod conditions;
pub(crate) mod row_zooms;
pub(crate) mod simplified;

use std::path::PathBuf;

use crate::rendering::reference::Plain;
use crate::support::Db;
use crate::support::tracked::Tracked;

/// Tables of points, and of lines and polygons.
const TABLES: &str = include_str!("tables.sql");

/// The deepest zoom of these tilesets.
const DEEPEST: u8 = 9;

/// The tables, with a configuration over them.
struct World {
    tracked: Tracked,
    config: String,
}

impl World {
    /// A configuration over the tables, and the change log for it.
    fn new(layers: &str) -> World {
        World::with("", layers)
    }

    /// The same with more tables.
    fn with(more: &str, layers: &str) -> World {
        let db = Db::new();
        db.run(TABLES);
        db.run(more);
        let folder = tempfile::tempdir().unwrap();
        let world = World {
            config: folder.path().join("c.toml").to_str().unwrap().to_owned(),
            tracked: Tracked { db, folder },
        };
        world.configure(layers);
        world.tracked.oar_tiles(&["track", "install", "--config", &world.config]).ok();
        world
    }

    /// Another configuration.
    fn configure(&self, layers: &str) {
        // Many statements a zoom.
        let settings = format!("[tileset]\nzoom = \"0-{DEEPEST}\"\n[run]\nbatch_features = 60\n{layers}");
        std::fs::write(&self.config, settings).unwrap();
    }

    fn seed(&self, name: &str, arguments: &[&str]) -> PathBuf {
        self.tracked.seed(name, &[&["--config", &self.config], arguments].concat())
    }

    /// A reseed that has something to do, after which the target shows what a fresh seed shows.
    #[track_caller]
    fn reseeds(&self, target: &std::path::Path) {
        let done = self.tracked.reseed(target, &["--config", &self.config]).ok();
        assert!(done.stdout.contains("dirty tiles"), "{}", done.stdout);
        self.tracked.is_fresh(target, &["--config", &self.config]);
    }

    /// A reseed that has nothing to do.
    #[track_caller]
    fn is_up_to_date(&self, target: &std::path::Path) {
        let done = self.tracked.reseed(target, &["--config", &self.config]).ok();
        assert_eq!(done.stdout, format!("nothing to do: {}\n", target.display()));
    }
}

/// A layer for the plain query at one zoom.
fn plain<'a>(name: &'a str, rows: &'a str, zoom: u8) -> Plain<'a> {
    Plain { name, rows, properties: "name", extent: 4096, buffer: 64, zooms: zoom..=zoom }
}
