//! Variants: one configuration makes a family of tilesets that differ in the values of parameters.

mod addresses;
mod buckets_and_versions;
mod changing;
mod daemon;
mod kinds;
mod messages;
mod part;
mod random;
mod reseeding;
mod seeding;
mod served;
mod verbs;

use std::collections::BTreeMap;

use crate::support::tracked::Tiles;
use crate::support::world::World;
use crate::support::{Archive, Db};

/// The layer of the facilities, with the table that says whose they are.
const LAYER: &str = "[[layer]]
name = \"facilities\"
table = \"api_facility\"
geometry = \"location\"
key = [\"id\"]
properties = [\"id\", \"name\"]
[[layer.track]]
table = \"membership\"
geometry = \"SELECT location FROM api_facility WHERE id = changed.facility\"
[[layer.track]]
table = \"contributor\"
geometry = \"SELECT f.location FROM api_facility AS f JOIN membership AS m ON m.facility = f.id WHERE m.contributor = changed.number\"
";

/// The condition of a contributor's facilities.
const CONDITION: &str = "id IN (SELECT facility FROM membership WHERE contributor = !number!)";

impl World {
    /// Facilities and contributors whose sets overlap.
    fn with_contributors(facilities: u32, contributors: u32) -> World {
        let db = Db::with_facilities(facilities);
        db.run(&format!(
            "CREATE TABLE contributor (number int PRIMARY KEY, slug text);
             CREATE TABLE membership (contributor int, facility varchar(32));
             INSERT INTO contributor SELECT n, 'c' || n FROM generate_series(1, {contributors}) AS n;
             -- The first has nothing; NULLs are nobody's.
             INSERT INTO membership SELECT 2 + abs(hashtext(id)) % {contributors}, id FROM api_facility WHERE abs(hashtext(id)) % {contributors} < {contributors} - 1;
             INSERT INTO membership SELECT 2 + abs(hashtext(name)) % ({contributors} - 1), id FROM api_facility WHERE abs(hashtext(id || 'x')) % 3 = 0;
             INSERT INTO membership SELECT NULL, id FROM api_facility LIMIT 3;
             INSERT INTO membership SELECT {contributors}, NULL;"
        ));
        World::of(db)
    }

    /// A configuration with a family of contributors, whose outputs have this ending.
    fn contributors(&self, ending: &str) -> String {
        self.family(&format!("FOLDER/by/{{slug}}{ending}"), &format!("FOLDER/all{ending}"), "")
    }

    /// The same with outputs anywhere, and more sections.
    fn family(&self, output: &str, all: &str, more: &str) -> String {
        self.file(
            "contributors.toml",
            &format!(
                "[tileset]\nzoom = \"0-6\"\n[tileset.variants]\nvalues = \"SELECT number, slug FROM contributor\"\nwhere = {{ facilities = \"{CONDITION}\" }}\noutput = \"{output}\"\nall = \"{all}\"\n{LAYER}{more}"
            ),
        )
    }

    /// A configuration of one tileset with a condition.
    fn single(&self, condition: &str) -> String {
        self.file(
            "single.toml",
            &format!("[tileset]\nzoom = \"0-6\"\noutput = \"FOLDER/single.mbtiles\"\n{LAYER}")
                .replace("properties =", &format!("where = \"\"\"{condition}\"\"\"\nproperties =")),
        )
    }

    /// What a run of one tileset with a condition makes.
    fn single_run(&self, condition: &str) -> Tiles {
        let config = self.single(condition);
        self.oar_tiles(&config, &["seed", "--progress", "none", "--force", "--allow-shrink"]).ok();
        Archive::open(&self.path("single.mbtiles")).stored()
    }

    /// What a target holds.
    fn held(&self, target: &str) -> Tiles {
        self.copied(target).stored()
    }

    /// The contributors: their numbers and names.
    fn slugs(&self) -> Vec<(i32, String)> {
        let rows = self.db.rows("SELECT number, slug FROM contributor ORDER BY number");
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Asserts that every variant is what a run of its own makes, and that there are no others.
    #[track_caller]
    fn variants_are_single_runs(&self, ending: &str) {
        for (number, slug) in self.slugs() {
            let expected = self.single_run(&CONDITION.replace("!number!", &number.to_string()));
            assert_eq!(self.held(&format!("by/{slug}{ending}")), expected, "{slug}");
        }
        assert_eq!(self.held(&format!("all{ending}")), self.single_run("true"));
    }

    /// The names in a folder, but for those that begin with a dot.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    }
}

/// The bytes of the files in a folder, by name.
fn bytes_of(world: &World, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let names = world.names(folder);
    names.into_iter().map(|name| (name.clone(), std::fs::read(world.path(folder).join(&name)).unwrap())).collect()
}
