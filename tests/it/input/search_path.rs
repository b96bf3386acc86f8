//! Functions, operators and tables of others that have names of PostGIS: none is run, on the search path or off it, and
//! a run that would take one for PostGIS's own is refused.

use std::path::PathBuf;

use crate::support::program::{program, run};
use crate::support::{Archive, Db, seed};

const LAYER: &str =
    "[tileset]\noutput = \"t.mbtiles\"\n[[layer]]\nname = \"mill\"\ntable = \"mill\"\nschema = \"public\"\n";

/// A database with PostGIS in some schema, a table, and a role that owns the schema of its name. The role is dropped at
/// the end.
struct World {
    db: Db,
    folder: tempfile::TempDir,
    /// The role, and its schema.
    other: String,
}

impl World {
    fn new(postgis: &str) -> World {
        let db = Db::empty();
        let other = format!("{}_other", db.name);
        // The other schema is the older one, so that the catalog's index names its functions first.
        db.run(&format!(
            "CREATE ROLE {other} LOGIN; CREATE SCHEMA {other} AUTHORIZATION {other}; GRANT USAGE ON SCHEMA {other} TO PUBLIC;
             CREATE SCHEMA IF NOT EXISTS {postgis}; CREATE EXTENSION postgis SCHEMA {postgis};
             CREATE TABLE public.mill (id int PRIMARY KEY, geom {postgis}.geometry(Point, 4326));
             INSERT INTO public.mill SELECT n, {postgis}.ST_SetSRID({postgis}.ST_MakePoint(n, n), 4326) FROM generate_series(1, 50) AS n"
        ));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.toml"), LAYER).unwrap();
        World { db, folder, other }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// The file that the other role's functions write if somebody with the right to do so runs them.
    fn trace(&self) -> PathBuf {
        std::env::temp_dir().join(format!("{}.trace", self.db.name))
    }

    /// Runs statements as the other role.
    fn as_other(&self, sql: &str) {
        self.db.run(&format!("SET ROLE {}; {sql}; RESET ROLE", self.other));
    }

    /// A function of the other role that leaves the trace.
    fn function(&self, signature: &str, returns: &str, value: &str) {
        self.as_other(&format!(
            "CREATE FUNCTION {}.{signature} RETURNS {returns} LANGUAGE plpgsql AS $$ BEGIN
                 COPY (SELECT current_user) TO '{}'; RETURN {value}; END $$",
            self.other,
            self.trace().display()
        ));
    }

    fn search_path(&self, path: &str) {
        self.db.run(&format!("ALTER DATABASE {} SET search_path = {path}", self.db.name));
    }

    /// Each verb with its exit code, standard output and standard error. None of them leaves the trace.
    fn verbs(&self) -> Vec<(&'static str, i32, String)> {
        let (config, target) = (self.path("c.toml"), self.path("t.mbtiles"));
        let verbs: [(&str, &[&str]); 5] = [
            ("install", &["track", "install", "--config", &config]),
            ("seed", &["seed", "--progress", "none", "--zoom", "0-4", "--config", &config, "--output", &target]),
            ("reseed", &["reseed", "--progress", "none", "--config", &config, "--output", &target]),
            ("check", &["config", "--check", "--database", "--config", &config]),
            ("doctor", &["doctor", &target, "--config", &config]),
        ];
        let run_one = |(name, arguments): (&'static str, &[&str])| {
            let ended = run(program().args(arguments).env("DATABASE_URL", &self.db.url));
            assert!(!self.trace().exists(), "{name} ran a function of another role: {}", ended.stderr);
            (name, ended.code, format!("{}{}", ended.stdout, ended.stderr))
        };
        verbs.into_iter().map(run_one).collect()
    }

    /// Every verb succeeds.
    #[track_caller]
    fn are_fine(&self) {
        for (verb, code, said) in self.verbs() {
            assert_eq!(code, 0, "{verb}: {said}");
        }
    }

    /// Every verb names this and ends with exit code 2 (doctor: 1, with an error).
    #[track_caller]
    fn is_refused(&self, texts: &[&str]) {
        for (verb, code, said) in self.verbs() {
            assert_eq!(code, if verb == "doctor" { 1 } else { 2 }, "{verb}: {said}");
            for text in texts {
                assert!(said.contains(text), "{verb}: «{text}» is missing in:\n{said}");
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(std::fs::remove_file(self.trace()));
        if !std::thread::panicking() {
            self.db.run(&format!("RESET search_path; DROP OWNED BY {0} CASCADE; DROP ROLE {0}", self.other));
        }
    }
}

#[test]
fn a_function_off_the_search_path_does_not_say_where_postgis_is() {
    let world = World::new("gis");
    world.function("postgis_lib_version()", "text", "'3.3.2'");
    world.are_fine();
    assert!(!Archive::open(world.path("t.mbtiles").as_ref()).tiles().is_empty());
}

#[test]
fn objects_of_others_with_names_of_postgis_are_refused_before_one_runs() {
    let world = World::new("public");
    let other = world.other.clone();
    world.search_path(&format!("{other}, public"));
    world.are_fine();
    world.function("postgis_lib_version()", "text", "NULL");
    world.function("st_asmvtgeom(geometry, box2d, int, int, bool)", "geometry", "NULL");
    world.function("my_own(geometry)", "geometry", "NULL");
    let next = "could run with the rights of the role \"oar_tiles\", and change tiles: drop or rename them, or take the schema off the search path: ALTER ROLE \"oar_tiles\" SET search_path = \"public\"";
    for path in [format!("{other}, public"), format!("public, {other}")] {
        world.search_path(&path);
        world.is_refused(&[
            "others have objects with names of PostGIS or PostgreSQL",
            &format!("the function {other}.postgis_lib_version() of the role \"{other}\""),
            &format!("the function {other}.st_asmvtgeom(public.geometry,public.box2d,integer,integer,boolean) of the role \"{other}\""),
            next,
        ]);
    }
    // Off the path they are nobody's business.
    world.search_path("public");
    world.are_fine();
}

#[test]
fn operators_tables_and_overloads_beside_postgis_are_refused_too() {
    let world = World::new("public");
    let other = world.other.clone();
    world.search_path(&format!("{other}, public"));
    world.are_fine();
    world.as_other(&format!(
        "CREATE FUNCTION {other}.never(geometry, geometry) RETURNS bool LANGUAGE sql AS 'SELECT false';
         CREATE OPERATOR {other}.&& (LEFTARG = geometry, RIGHTARG = geometry, FUNCTION = {other}.never);
         CREATE VIEW {other}.spatial_ref_sys AS SELECT 4326 AS srid"
    ));
    world.is_refused(&[
        &format!("the operator {other}.&&(public.geometry,public.geometry) of the role"),
        &format!("the table {other}.spatial_ref_sys of the role"),
    ]);
    world.as_other(&format!("DROP VIEW {other}.spatial_ref_sys; DROP OPERATOR {other}.&& (geometry, geometry)"));
    // In the schema of PostGIS itself an overload may fit better than PostGIS's own.
    world.db.run(&format!("GRANT CREATE ON SCHEMA public TO {other}"));
    world.as_other(
        "CREATE FUNCTION public.st_asmvtgeom(geometry, geometry, int, int, bool) RETURNS geometry LANGUAGE sql AS 'SELECT $1'",
    );
    world.is_refused(&["the function public.st_asmvtgeom(public.geometry,public.geometry,integer,integer,boolean)"]);
    world.as_other("DROP FUNCTION public.st_asmvtgeom(geometry, geometry, int, int, bool)");
    // What stands before pg_catalog counts with names of PostgreSQL itself.
    world.function("current_setting(text)", "text", "NULL");
    world.search_path(&format!("public, {other}"));
    world.are_fine();
    world.search_path(&format!("public, {other}, pg_catalog"));
    world.is_refused(&[&format!("the function {other}.current_setting(text) of the role")]);
    // Operators and functions of its own are no danger to a role.
    world.search_path(&format!("{other}, public"));
    world.function("postgis_lib_version()", "text", "'3.3.2'");
    world.db.run(&format!("GRANT SELECT ON mill, spatial_ref_sys TO {other}"));
    let url = world.db.url.replacen("oar_tiles@", &format!("{other}@"), 1);
    seed(&url, world.path("own.mbtiles").as_ref(), &["--config", &world.path("c.toml"), "--zoom", "0-4"]).ok();
}

/// A view is read with the rights of the role that draws, and can change its settings while it is read.
#[test]
fn a_view_that_changes_the_path_changes_no_function_of_another_layer() {
    let world = World::new("public");
    let other = world.other.clone();
    world.db.run(&format!(
        "CREATE FUNCTION public.label(int) RETURNS text LANGUAGE sql AS $$ SELECT 'right' $$;
         GRANT SELECT ON public.mill TO {other}; GRANT CREATE ON SCHEMA public TO {other}"
    ));
    world.function("label(int)", "text", "'wrong'");
    world.as_other(&format!(
        "CREATE VIEW public.cunning AS SELECT id, geom FROM public.mill WHERE set_config('search_path', '{other}, public', true) IS NOT NULL
             AND set_config('timezone', 'Asia/Dhaka', true) IS NOT NULL AND set_config('bytea_output', 'escape', true) IS NOT NULL"
    ));
    let layers = |first: &str| {
        format!(
            "[tileset]\noutput = \"t.mbtiles\"\n{first}[[layer]]\nname = \"mill\"\ntable = \"mill\"\nschema = \"public\"
             [layer.properties]\nlabel = \"label(id)\"\nat = \"(timestamptz '2026-01-01 00:00+00')::text\"\nbytes = \"('ab'::bytea)::text\"\n"
        )
    };
    let cunning = "[[layer]]\nname = \"cunning\"\ntable = \"cunning\"\nschema = \"public\"\nkey = [\"id\"]\n";
    let tiles = |first: &str, run: &str| {
        std::fs::write(world.path("c.toml"), format!("[run]\n{run}\n{}", layers(first))).unwrap();
        let arguments = ["--config", &world.path("c.toml"), "--zoom", "0-3", "--workers", "1"];
        seed(&world.db.url, world.path("t.mbtiles").as_ref(), &arguments).ok();
        Archive::open(world.path("t.mbtiles").as_ref()).tiles()
    };
    // With rows in memory, and drawn by the database.
    for more in ["", "rows_mb = 0"] {
        let alone = tiles("", more);
        let beside = tiles(cunning, more);
        assert!(!world.trace().exists(), "{more:?}: a function of another role ran");
        assert_eq!(alone.keys().collect::<Vec<_>>(), beside.keys().collect::<Vec<_>>());
        for (tile, bytes) in &alone {
            // The layers of a tile stand one after the other.
            assert!(beside[tile].ends_with(bytes), "{more:?} {tile:?}");
        }
    }
}
