//! A server that writes a tileset in a container: one of two writes, edits and live tiles are answered, a CDN is told,
//! and doctor looks at the container.

use serde_json::Value;

use crate::support::azure::{Container, with_account};
use crate::support::program::{over_rows, program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Db, until};

struct World {
    db: Db,
    _folder: tempfile::TempDir,
    config: String,
    place: String,
    /// What the CDN was told: one item a line.
    told: std::path::PathBuf,
}

impl World {
    fn new() -> World {
        let (db, container, folder) = (Db::with_facilities(200), Container::new(), tempfile::tempdir().unwrap());
        let (place, told) = (container.place("tiles/"), folder.path().join("told"));
        let config = folder.path().join("c.toml").display().to_string();
        let settings = format!(
            "[tileset]\nname = \"facilities\"\nzoom = \"0-4\"\noutput = \"{place}\"\n[target]\npublic_url = \"relative\"\n[changes]\ndebounce = \"20ms\"\n[serve]\nwriter_lease = \"2s\"\nlive = true\n[[purge]]\nprovider = \"command\"\nurl = \"https://tiles.test/\"\nsettle = \"0s\"\nrebound = \"0s\"\nprogram = ['sh', '-c', 'cat \"$OAR_TILES_PURGE_LIST\" >>\"$0\"', '{}']\n",
            told.display()
        );
        std::fs::write(&config, over_rows(&settings)).unwrap();
        let world = World { db, _folder: folder, config, place, told };
        world.oar_tiles(&["track", "install"]).ok();
        world.oar_tiles(&["seed", "--progress", "none"]).ok();
        world
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = program();
        command.args(arguments).args(["--config", &self.config, "--database-url", &self.db.url]);
        with_account(&mut command);
        command
    }

    fn oar_tiles(&self, arguments: &[&str]) -> crate::support::program::Run {
        run(&mut self.command(arguments))
    }

    fn server(&self) -> Served {
        let listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"];
        Served::of(&mut self.command(&[&["serve", &self.place, "--writer=auto"][..], &listen].concat()))
    }

    fn told(&self) -> String {
        std::fs::read_to_string(&self.told).unwrap_or_default()
    }
}

fn role(served: &Served) -> String {
    let status: Value = serde_json::from_str(&served.admin("/status.json").1).unwrap();
    status["writer"]["role"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn of_two_servers_one_writes_a_container_and_the_other_takes_over() {
    let world = World::new();
    let servers = [world.server(), world.server()];
    until("one writes", || servers.iter().filter(|served| role(served) == "writing").count() == 1);
    let doctor = world.oar_tiles(&["doctor"]);
    assert!(doctor.stdout.contains(&format!("{} can be written", world.place)), "{}", doctor.stdout);

    // An edit is answered by both, from the container, and the CDN hears of it.
    let seen = |served: &Served| served.get("/0/0/0.pbf", GZIP).body;
    let before = seen(&servers[0]);
    let told = world.told();
    world.db.run("UPDATE api_facility SET name = 'edited' WHERE id = (SELECT min(id) FROM api_facility)");
    until("both answer with the edit", || servers.iter().all(|served| seen(served) != before));
    until("the CDN is told", || world.told().len() > told.len());
    assert!(world.told()[told.len()..].contains("0/0/0"), "{}", world.told());
    // A tile below the target's zooms is drawn when it is asked for.
    let deeper: String = world.db.value(
        "SELECT format('/6/%s/%s.pbf', floor((ST_X(location) + 180) / 360 * 64)::int,
             floor((1 - ln(tan(radians(ST_Y(location))) + 1 / cos(radians(ST_Y(location)))) / pi()) / 2 * 64)::int)
         FROM api_facility LIMIT 1",
    );
    assert_eq!(servers.each_ref().map(|served| status(&served.get(&deeper, GZIP))), [200, 200], "{deeper}");

    let writing = servers.iter().position(|served| role(served) == "writing").unwrap();
    let [first, second] = servers;
    let (gone, left) = if writing == 0 { (first, second) } else { (second, first) };
    drop(gone);
    until("the other takes over", || role(&left) == "writing");
    let (before, told) = (seen(&left), world.told());
    world.db.run("UPDATE api_facility SET name = 'again' WHERE id = (SELECT min(id) FROM api_facility)");
    until("it answers with the edit", || seen(&left) != before);
    until("the CDN is told", || world.told().len() > told.len());
    // Neither shows that the edit was written: the answer may be a live tile, and what the CDN is told may be what the
    // first server had told it before it was stopped.
    let verified = || world.oar_tiles(&["verify", "--database", &world.place]);
    until("it has written", || verified().code == 0);
    drop(left);
    verified().ok();
}
