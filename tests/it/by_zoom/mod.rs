//! What a layer draws differs by zoom: conditions, zooms of a row, simplified shapes.

pub(crate) mod conditions;
pub(crate) mod row_zooms;
pub(crate) mod simplified;

use std::path::PathBuf;

use crate::rendering::reference::Plain;
use crate::support::tracked::{Tiles, Tracked, differences};
use crate::support::{Archive, Db};

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
        let settings = format!("[tileset]\nzoom = \"0-{DEEPEST}\"\n[run]\nbatch_features = 100\n{layers}");
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

    /// After each of these changes of a table a reseed makes what a seed makes; after one that no layer shows it has
    /// nothing to do.
    #[track_caller]
    fn follows(&self, target: &std::path::Path, table: &str, changes: &[&str]) {
        for change in changes {
            self.tracked.db.run(&format!("UPDATE {table} SET {change}"));
            self.reseeds(target);
        }
        self.tracked.db.run(&format!("UPDATE {table} SET note = 'x'"));
        self.is_up_to_date(target);
    }

    /// Asserts that each zoom of these layers is what they show with the condition of that zoom alone.
    #[track_caller]
    fn shows_each_zoom_alone(&self, layers: impl Fn(&str) -> String, condition: impl Fn(u8) -> String) {
        let found = Archive::open(&self.seed("t.mbtiles", &[])).stored();
        for zoom in 0..=DEEPEST {
            self.configure(&layers(&format!("where = \"{}\"", condition(zoom))));
            let alone = Archive::open(&self.seed("alone.mbtiles", &["--zoom", &zoom.to_string()])).stored();
            let own = found.iter().filter(|((at, ..), _)| *at == zoom);
            let own: Tiles = own.map(|(tile, bytes)| (*tile, bytes.clone())).collect();
            assert!(!alone.is_empty());
            assert_eq!(differences(&own, &alone).first(), None, "zoom {zoom}");
        }
    }

    /// A reseed that has nothing to do.
    #[track_caller]
    fn is_up_to_date(&self, target: &std::path::Path) {
        let done = self.tracked.reseed(target, &["--config", &self.config]).ok();
        assert_eq!(done.stdout, format!("nothing to do: {}\n", target.display()));
    }
}

/// Layers of cells, clusters and thinned points, each with these lines.
fn gathered(lines: &str) -> String {
    let layer = format!("[[layer]]\ntable = \"mill\"\n{lines}\n");
    let count = "size = \"1/8\"\nproperties = { n = \"count(*)\", most = \"max(workers)\" }\n";
    format!(
        "{layer}name = \"hexagons\"\n[layer.aggregate]\ncell = \"hexagon\"\n{count}
         {layer}name = \"squares\"\n[layer.aggregate]\ncell = \"square\"\ndraw = \"centroid\"\nzoom = \"0-4\"\n{count}
         {layer}name = \"clusters\"\nproperties = [\"name\"]\n[layer.cluster]\nzoom = \"2-6\"\n
         {layer}name = \"thinned\"\nproperties = [\"name\"]\nmax_tile_features = 3\non_large_tile = \"thin\"\nrank = \"workers\"\n"
    )
}

/// A layer for the plain query at one zoom.
fn plain<'a>(name: &'a str, rows: &'a str, zoom: u8) -> Plain<'a> {
    Plain { name, rows, properties: "name", extent: 4096, buffer: 64, zooms: zoom..=zoom }
}
