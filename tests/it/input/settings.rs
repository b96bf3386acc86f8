//! Flags, variables, configurations and files that make no sense: refused before the database is asked, with the next
//! step.

use std::path::Path;
use std::process::Command;

use rusqlite::Connection;

use crate::support::OldTarget;
use crate::support::program::{ROWS, humble, program, run, seed_command};
use crate::support::refusal::{NOWHERE, names};

#[test]
fn flags_that_make_no_sense_are_refused() {
    let old = OldTarget::new();
    for (arguments, texts) in [
        (
            &["--bbox", "0,10,10,0"][..],
            &[
                "invalid value '0,10,10,0' for '--bbox <W,S,E,N>': the box 0,10,10,0 is reversed: south 10 is not below north 0 (the order is west,south,east,north)",
            ][..],
        ),
        (&["--bbox", "-181,0,10,10"], &["west -181 must lie between -180 and 180"]),
        (&["--bbox", "0,0,180.5,10"], &["east 180.5 must lie between -180 and 180"]),
        (&["--bbox", "0,-90.5,10,10"], &["south -90.5 must lie between -90 and 90"]),
        (&["--bbox", "0,0,10,NaN"], &["north NaN must lie between -90 and 90"]),
        (&["--bbox", "0,0,inf,10"], &["east inf must lie between -180 and 180"]),
        (&["--bbox", "5,0,5,1"], &["the box 5,0,5,1 is empty: west and east are the same (for the whole world write "]),
        (
            &["--bbox", "1,2,3"],
            &["\"1,2,3\" is no box: write west,south,east,north in degrees, such as 5.9,45.8,10.5,47.8"],
        ),
        (&["--zoom", "23"], &["zoom 23 is too deep: the deepest zoom is 22"]),
        (&["--zoom", "0-99"], &["zoom 99 is too deep: the deepest zoom is 22"]),
        (&["--zoom", "14-0"], &["the zoom range 14-0 is reversed: write 0-14"]),
        (&["--zoom", "deep"], &["\"deep\" is no zoom list: write 0-14, 7 or 0-4,8,10-12"]),
        (&["--layer", "facility"], &["there is no layer \"facility\". Did you mean \"facilities\"?"]),
        (&["--layer", "roads"], &["there is no layer \"roads\": there is facilities"]),
        (&["--workers", "many"], &["invalid value 'many' for '--workers <N>'"]),
        (&["--workers", "1000"], &["run.workers (from --workers): 1000 must lie between 1 and 256"]),
        (&["--verbose", "--quiet"], &["'--verbose...' cannot be used with '--quiet'"]),
        (&["--zom", "3"], &["unexpected argument '--zom' found", "a similar argument exists: '--zoom'"]),
        (
            &["--config", "/nowhere/c.toml"],
            &[
                "cannot read the configuration /nowhere/c.toml: name a TOML file with --config\n  cause: No such file or directory",
            ],
        ),
        (
            &["--config", "/"],
            &["cannot read the configuration /: name a TOML file with --config\n  cause: Is a directory"],
        ),
    ] {
        old.refuses(NOWHERE, arguments, 2, texts);
    }
    for (arguments, text) in [
        (
            &["seed", "--progress", "dots"][..],
            "invalid value 'dots' for '--progress <STYLE>'\n  [possible values: auto, bar, lines, json, none]\n",
        ),
        (
            &["serve", "t.mbtiles", "--writer=yes"],
            "invalid value 'yes' for '--writer[=<WHEN>]'\n  [possible values: always, auto, never]\n",
        ),
        (&["sed"], "unrecognized subcommand 'sed'"),
        (&["config", "--zoom", "5-3"], "the zoom range 5-3 is reversed: write 3-5"),
        (&["seed", "--database-url", "mysql://here/there"], "error: the database URL cannot be read ("),
        (
            &["seed", "--database-url", "'postgresql://h/d'"],
            "error: the database URL cannot be read (it begins with a quotation mark): remove the quotation marks around it\n",
        ),
        (
            &["seed", "--database-url", "postgresql://h/d?sslmode=maybe"],
            "error: \"maybe\" is no sslmode: write disable, prefer, require, verify-ca or verify-full\n",
        ),
    ] {
        old.refuses_command(program().args(arguments), 2, &[text]);
    }
}

#[test]
fn variables_that_make_no_sense_are_refused_by_name() {
    let old = OldTarget::new();
    for (name, value, text) in [
        ("OAR_TILES_ZOM", "1", "the environment variable OAR_TILES_ZOM is unknown. Did you mean \"OAR_TILES_ZOOM\"?"),
        ("OAR_TILES_ZOOM", "9-1", "the environment variable OAR_TILES_ZOOM: the zoom range 9-1 is reversed: write 1-9"),
        (
            "OAR_TILES_ZOOM",
            "23",
            "the environment variable OAR_TILES_ZOOM: zoom 23 is too deep: the deepest zoom is 22",
        ),
        (
            "OAR_TILES_BBOX",
            "0,0,1,1;0,10,10,0",
            "OAR_TILES_BBOX: the box 0,10,10,0 is reversed: south 10 is not below north 0",
        ),
        ("OAR_TILES_WORKERS", "two", "the environment variable OAR_TILES_WORKERS is \"two\", which is no whole number"),
        ("OAR_TILES_WORKERS", "999", "run.workers (from OAR_TILES_WORKERS): 999 must lie between 1 and 256"),
        ("OAR_TILES_PROGRESS", "dots", "the environment variable OAR_TILES_PROGRESS: unknown variant `dots`"),
        ("OAR_TILES_STATEMENT_TIMEOUT", "soon", "OAR_TILES_STATEMENT_TIMEOUT: \"soon\" is no duration"),
        (
            "OAR_TILES_GZIP_LEVEL",
            "13",
            "tileset.gzip_level (from OAR_TILES_GZIP_LEVEL): 13 is no gzip level: write 1 (fast) to 12 (small)",
        ),
        (
            "OAR_TILES_CONFIG",
            "/nowhere/c.toml",
            "cannot read the configuration /nowhere/c.toml: name a TOML file with --config",
        ),
        ("PGPORT", "x", "PGPORT is no port number (invalid digit found in string): write a number such as 5432"),
        ("PGSSLMODE", "maybe", "\"maybe\" is no sslmode: write disable, prefer, require, verify-ca or verify-full"),
    ] {
        old.refuses_variable(name, value, 2, &[text]);
    }
}

/// `src/config/tests/` has every message; here is the way to the exit code.
#[test]
fn a_configuration_that_makes_no_sense_is_refused_with_its_line() {
    let old = OldTarget::new();
    for (text, message) in [
        ("[tileset]\nname = \"x\"\nzom = 3", "c.toml, line 3: unknown key \"zom\". Did you mean \"zoom\"?\n"),
        ("[tilset]", "c.toml, line 1: unknown key \"tilset\". Did you mean \"tileset\"?\n"),
        (
            "[[layer]]\nname = \"a\"\ntable = \"t\"\ngeom = \"g\"",
            "c.toml, line 4: unknown key \"geom\". Did you mean \"geometry\"?\n",
        ),
        ("[tileset]\nzoom = \"9-3\"", "c.toml, line 2: the zoom range 9-3 is reversed: write 3-9\n"),
        ("[tileset]\nzoom = 23", "c.toml, line 2: zoom 23 is too deep: the deepest zoom is 22\n"),
        (
            "[tileset]\nbbox = [\"0,10,10,0\"]",
            "c.toml, line 2: the box 0,10,10,0 is reversed: south 10 is not below north 0",
        ),
        ("[tileset]\nname = ", "c.toml, line 2: "),
        (
            "[[layer]]\nname = \"a\"\ntable = \"t\"\nkey = [\"i\", \"i\"]",
            "c.toml): names the column \"i\" twice: name each column once\n",
        ),
        (
            "[[layer]]\nname = \"a\"\ntable = \"t\"\n[[layer]]\nname = \"a\"\ntable = \"u\"",
            "two layers are named \"a\": give each its own name\n",
        ),
        ("layer = []", "there are 0 layers: write 1 to 255\n"),
    ] {
        old.refuses_config(NOWHERE, text, &[], 2, &[message]);
    }
}

#[test]
fn an_output_that_cannot_be_replaced_is_left_alone() {
    let sqlite = {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.sqlite");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE tiles (z); CREATE TABLE accounts (name)").unwrap();
        std::fs::read(&path).unwrap()
    };
    let torn = [b"SQLite format 3\0", &[7; 500][..]].concat();
    for (bytes, what) in [
        (&b"My thesis, chapter 1"[..], "it is not an SQLite file"),
        (b"x", "it is not an SQLite file"),
        (&sqlite, "it is an SQLite file without the tables metadata and tiles"),
        (&torn, "SQLite cannot read it"),
    ] {
        let old = OldTarget::holding(bytes);
        let text = format!(
            "error: {} is no MBTiles file ({what}): it is left alone. Choose another --output, or remove it first\n",
            old.path.display()
        );
        old.refuses(NOWHERE, &[], 2, &[&text]);
    }
}

/// Readers would apply what lies there to the new file. What a killed program left beside an archive is cleared away as
/// any reader would; what a running one holds, or what lies beside nothing, is not.
#[test]
fn what_sqlite_left_beside_the_old_file_is_cleared_away_or_refused() {
    // A program in mid-write: its changes are in the "-wal" alone.
    let program = OldTarget::new();
    let connection = Connection::open(&program.path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; UPDATE tiles SET tile_data = x'00';").unwrap();
    let log = std::fs::read(program.path.with_file_name("t.mbtiles-wal")).unwrap();
    let before = std::fs::read(&program.path).unwrap();
    assert!(!log.is_empty());
    let refuses = |path: &Path, left: &Path| {
        let (shown, there) = (path.display(), names(path.parent().unwrap()));
        let (target, bytes) = (std::fs::read(path).ok(), std::fs::read(left).unwrap());
        let text = format!(
            "error: {} lies beside the output {shown} and would be applied to the new file: end the program that has the old one open and run sqlite3 '{shown}' .tables, which clears it away; or remove it, with the changes that it holds\n",
            left.display()
        );
        run(&mut seed_command(NOWHERE, path, &[])).fails(1, &[&text]);
        assert_eq!(names(path.parent().unwrap()), there, "nothing comes or goes: {text}");
        assert!(std::fs::read(path).ok() == target && std::fs::read(left).unwrap() == bytes, "{text}");
    };
    refuses(&program.path, &program.path.with_file_name("t.mbtiles-wal"));
    for target in [Some(&before[..]), Some(b""), None] {
        for (end, bytes) in [("-wal", &log[..]), ("-journal", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7")] {
            let folder = tempfile::tempdir().unwrap();
            let (path, left) = (folder.path().join("t.mbtiles"), folder.path().join(format!("t.mbtiles{end}")));
            if let Some(target) = target {
                std::fs::write(&path, target).unwrap();
            }
            std::fs::write(&left, bytes).unwrap();
            if target == Some(&before[..]) {
                run(&mut seed_command(NOWHERE, &path, &[])).fails(1, &["cannot reach the database"]);
                assert_eq!(names(folder.path()).len(), 1, "{end} is cleared away");
                let held =
                    Connection::open(&path).unwrap().query_row("SELECT tile_data FROM tiles", [], |row| row.get(0));
                let expected = if end == "-wal" { vec![0] } else { vec![0x1a, 0] };
                assert_eq!(held, Ok(expected), "what was committed stays");
                continue;
            }
            refuses(&path, &left);
            // What the message says helps.
            let tables = "SELECT count(*) FROM sqlite_schema";
            Connection::open(&path).unwrap().query_row(tables, [], |row| row.get::<_, i64>(0)).unwrap();
            assert!(!left.exists(), "{end}");
            // An empty one holds nothing.
            std::fs::write(&left, b"").unwrap();
            run(&mut seed_command(NOWHERE, &path, &[])).fails(1, &["cannot reach the database"]);
        }
    }
}

#[test]
fn a_target_in_wal_mode_that_was_closed_is_looked_at_without_a_trace() {
    let old = OldTarget::new();
    Connection::open(&old.path).unwrap().execute_batch("PRAGMA journal_mode = WAL").unwrap();
    let old = OldTarget::holding(&std::fs::read(&old.path).unwrap());
    assert_eq!(std::fs::read(&old.path).unwrap()[18..20], [2, 2], "WAL mode");
    old.refuses(NOWHERE, &[], 1, &["cannot reach the database"]);
}

#[test]
fn an_old_target_is_known_under_any_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let old = OldTarget::new();
    for name in [&b"a b%41?mode=memory#c&'d'.mbtiles"[..], "Bäche.mbtiles".as_bytes(), b"\xff.mbtiles"] {
        let path = old.beside("").join(std::ffi::OsStr::from_bytes(name));
        std::fs::copy(&old.path, &path).unwrap();
        run(&mut seed_command(NOWHERE, &path, &[])).fails(1, &["cannot reach the database"]);
    }
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_the_work() {
    let old = OldTarget::new();
    let refused = |output: &Path, code, text: String| {
        old.refuses_command(&mut seed_command(NOWHERE, output, &[]), code, &[&text]);
    };
    let missing = old.beside("no/t.mbtiles");
    let (folder, shown) = (old.beside("no"), missing.display());
    refused(
        &missing,
        2,
        format!(
            "error: the folder {} of the output {shown} does not exist: make it, or choose another --output\n",
            folder.display()
        ),
    );
    // Not even root writes below a file.
    let below = old.path.join("t.mbtiles");
    let (file, shown) = (old.path.display(), below.display());
    refused(
        &below,
        2,
        format!("error: the folder {file} of the output {shown} does not exist: make it, or choose another --output\n"),
    );
    let folder = old.beside("folder.mbtiles");
    std::fs::create_dir(&folder).unwrap();
    let shown = folder.display();
    refused(
        &folder,
        2,
        format!("error: the output {shown} is a directory: name a file, such as {shown}/facilities.mbtiles\n"),
    );
    // A pipe or a device would be replaced by a file, and reading one may never end.
    let pipe = old.beside("pipe.mbtiles");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = Command::new("timeout");
    command
        .args(["-s", "KILL", "20", env!("CARGO_BIN_EXE_oar-tiles"), "seed", "--database-url", NOWHERE, "--output"])
        .arg(&pipe)
        .env("OAR_TILES_CONFIG", ROWS)
        .env("OAR_TILES_LOG", "plain");
    let text = format!("error: {} is no MBTiles file (it is no regular file): it is left alone.", pipe.display());
    old.refuses_command(&mut command, 2, &[&text]);
    assert_eq!(names(&old.beside("")).len(), 3, "nothing is left beside the pipe");
}

#[test]
fn a_folder_without_the_right_to_write_is_refused_before_the_work() {
    let old = OldTarget::new();
    let folder = old.path.parent().unwrap();
    let mode = |path: &Path, mode: &str| assert!(Command::new("chmod").arg(mode).arg(path).status().unwrap().success());
    mode(folder, "555");
    let staged = folder.join(".t.mbtiles.partial");
    let text = format!(
        "error: cannot write {}: give yourself the right to write there, or choose another --output\n  cause: Permission denied",
        staged.display()
    );
    old.refuses_command(&mut humble(&seed_command(NOWHERE, &old.path, &[])), 1, &[&text]);
    mode(folder, "755");
    mode(&old.path, "000");
    let text = format!(
        "error: cannot read {} to see whether it is an MBTiles file that may be replaced\n  cause: Permission denied",
        old.path.display()
    );
    run(&mut humble(&seed_command(NOWHERE, &old.path, &[]))).fails(1, &[&text]);
    mode(&old.path, "644");
    old.is_untouched("after an unreadable target");
}

#[test]
fn an_output_that_another_run_writes_is_left_to_it() {
    let old = OldTarget::new();
    let staged = old.path.with_file_name(".t.mbtiles.partial");
    let other = std::fs::File::create(&staged).unwrap();
    other.lock().unwrap();
    let text = format!(
        "error: another run is writing {}: wait until it is done, or choose another --output\n",
        old.path.display()
    );
    run(&mut seed_command(NOWHERE, &old.path, &[])).fails(1, &[&text]);
    assert!(staged.exists(), "what the other run has staged stays");
    drop(other);
    std::fs::remove_file(&staged).unwrap();
    old.is_untouched("after a busy target");
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_the_work() {
    let old = OldTarget::new();
    let (missing, folder) = (old.beside("no/r.json"), old.beside("tiles"));
    for (report, cause) in [
        (&missing, "No such file or directory"),
        (&folder, "Is a directory"),
        (&old.path, "it would replace the output\n"),
        (&old.beside("tiles/../tiles/t.mbtiles"), "it would replace the output\n"),
    ] {
        let text = format!(
            "error: cannot write the report {}: choose another --report; nothing was begun\n  cause: {cause}",
            report.display()
        );
        for mode in [&[][..], &["--dry-run"]] {
            let arguments = [&["--report", report.to_str().unwrap()][..], mode].concat();
            old.refuses(NOWHERE, &arguments, 2, &[&text]);
        }
    }
}

#[test]
fn a_run_that_fails_leaves_the_report_as_it_was() {
    let old = OldTarget::new();
    let (before, new) = (old.beside("before.json"), old.beside("new.json"));
    std::fs::write(&before, "{}").unwrap();
    for report in [&before, &new] {
        old.refuses(NOWHERE, &["--report", report.to_str().unwrap()], 1, &["cannot reach the database"]);
    }
    assert_eq!(std::fs::read_to_string(&before).unwrap(), "{}");
    assert!(!new.exists());
}

#[test]
fn no_command_repeats_the_password_of_a_url_that_cannot_be_read() {
    for url in [
        "postgis://me:s3cret@h/db?connect_timeout=5",
        "Postgresql://me:s3cret@h/db?connect_timeout=5",
        "postgresql+psycopg2://me:s3cret@h/db?connect_timeout=5",
        "\"postgresql://me:s3cret@h/db?connect_timeout=5\"",
        "postgresql://me:first@s3cret@h/db",
        "dbname=postgresql://me:s3cret@h/db",
        "postgresql://me@h/db?password=first&s3cret=5",
        "host=h sslmode=require;password=s3cret",
    ] {
        for verb in ["seed", "doctor", "track status"] {
            let ended = run(program().args(verb.split(' ')).env("DATABASE_URL", url));
            let shown = format!("{}{}", ended.stdout, ended.stderr);
            assert!(!shown.contains("s3cret"), "{verb} {url}: {shown}");
            assert_ne!(ended.code, 0, "{verb} {url}: {shown}");
        }
        let shown = run(program().arg("config").env("DATABASE_URL", url));
        assert!(!format!("{}{}", shown.stdout, shown.stderr).contains("s3cret"), "{url}: {}", shown.stdout);
    }
}

#[test]
fn white_space_and_a_byte_order_mark_around_the_url_are_no_part_of_it() {
    let db = crate::support::Db::with_facilities(10);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.mbtiles");
    for (before, after) in [(" ", ""), ("\u{feff}", "\r\n"), ("\n", "\t")] {
        let url = format!("{before}{}{after}", db.url);
        run(program().args(["seed", "--output"]).arg(&target).env("DATABASE_URL", &url)).ok();
    }
}
