//! Layers that a function of the database gives as whole tiles, as other tile servers call them.

mod changing;
mod refused;
mod tiles;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::Db;
use crate::support::archive::Address;
use crate::support::folder::Folder;
use crate::support::program::{Run, seed};

/// The functions.
const FUNCTIONS: &str = include_str!("functions.sql");

/// A database with the functions, and a folder.
struct World {
    db: Db,
    folder: Folder,
}

impl World {
    fn new() -> World {
        let db = Db::new();
        db.run(FUNCTIONS);
        World { db, folder: Folder::new() }
    }

    /// Writes a configuration of zooms 0 to 4 with one layer, and gives its path.
    fn config(&self, layer: &str) -> String {
        self.folder.config(&format!(
            "[tileset]\nzoom = \"0-4\"\n[run]\nworkers = 2\nbatch_features = 2000\n[[layer]]\nname = \"f\"\n{layer}\n"
        ))
    }

    /// Seeds the layer.
    fn seed(&self, layer: &str) -> (PathBuf, Run) {
        let target = self.folder.beside("t.mbtiles");
        let config = self.config(layer);
        let run = seed(&self.db.url, &target, &["--config", &config]);
        (target, run)
    }

    /// What an expression over `z`, `x` and `y` gives for every tile of zooms 0 to 4, without the tiles that are empty.
    fn given(&self, call: &str) -> BTreeMap<Address, Vec<u8>> {
        let rows = self.db.rows(&format!(
            "SELECT z, x, y, mvt FROM (
                SELECT z, x, y, ({call}) AS mvt FROM generate_series(0, 4) AS z,
                LATERAL generate_series(0, (1 << z) - 1) AS x, LATERAL generate_series(0, (1 << z) - 1) AS y) AS given
             WHERE length(mvt) > 0"
        ));
        let number = |row: &tokio_postgres::Row, at| row.get::<_, i32>(at);
        let tile = |row: &tokio_postgres::Row| {
            let address = (number(row, 0) as u8, number(row, 1) as u32, number(row, 2) as u32);
            (address, row.get(3))
        };
        rows.iter().map(tile).collect()
    }
}

/// The target as a text.
fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
