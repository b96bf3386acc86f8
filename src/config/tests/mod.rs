mod filters;
mod layers;
mod purge;
mod values;

use std::collections::BTreeSet;
use std::io::Write as _;

use super::*;
use crate::postgis::ConnectParts;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn gather_with(text: &str, environment: &[(&str, &str)], flags: Vec<Flag>) -> Result<ConfigValues, ConfigError> {
    let file = file(text);
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    gather(Some(file.path()), None, environment, flags)
}

fn settings_of(values: &ConfigValues, layers: &[String]) -> Result<Settings, ConfigError> {
    Settings::resolve(values, &ConnectParts::default(), layers)
}

fn resolve(text: &str) -> Result<Settings, ConfigError> {
    settings_of(&gather_with(text, &[], Vec::new())?, &[])
}

#[track_caller]
fn answered(text: &str, key: &str, message: &str) {
    let file = file(text);
    let values = gather(Some(file.path()), None, [], Vec::new()).unwrap();
    let error = Settings::resolve(&values, &ConnectParts::default(), &[]).unwrap_err().to_string();
    assert_eq!(error, format!("{key} (from {}): {message}", file.path().display()));
}

#[test]
fn the_sample_configuration_is_the_defaults() {
    let values = gather(None, None, [], Vec::new()).unwrap();
    let settings = settings_of(&values, &[]).unwrap();
    assert_eq!(settings.tileset.zooms.to_string(), "0-14");
    let table = crate::postgis::Rows::Relation { schema: None, table: "api_facility".to_owned() };
    assert_eq!(settings.tileset.layers[0].rows, table);
    assert_eq!(settings.database.session.connections, settings.run.workers.get() + 1);
}

#[test]
fn the_sample_configuration_holds_every_key() {
    // With comment marks removed, every example line is a valid setting too, and no key is missing.
    let text: String = SAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting)
                if setting
                    .split_once(" = ")
                    .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_')) =>
            {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    // A KMS key is valid only with KMS encryption.
    let text = text.replace("encryption = \"bucket\"", "encryption = \"aws:kms\"");
    // A rank is valid only if features may be left out.
    let text = text.replace("on_large_tile = \"warn\"", "on_large_tile = \"thin\"");
    let table: toml::Table = toml::from_str(&text).unwrap();
    // A feature id is for rows only, and an address must be given only once.
    let text = text.replace("feature_id = ", "# feature_id = ").replace("redis_url_file = ", "# redis_url_file = ");
    // The files of an area and of a secret would have to exist.
    let text = text.replace("\narea = ", "\n# area = ").replace("\nredis_secret_file = ", "\n# redis_secret_file = ");
    // One address is enough.
    let text = text.replace("\nurl_file = ", "\n# url_file = ");
    resolve(&text).unwrap();
    let schema = schema();
    for section in ["database", "tileset", "target", "s3", "changes", "run", "serve", "layer_defaults"] {
        let keys = |section: &serde_json::Value| -> BTreeSet<String> {
            section["properties"].as_object().unwrap().keys().cloned().collect()
        };
        let known = match &schema["properties"][section] {
            several if several.get("anyOf").is_some() => keys(&several["anyOf"][0]),
            one => keys(one),
        };
        let found: BTreeSet<String> = table[section].as_table().unwrap().keys().cloned().collect();
        // Tables of a tileset stand in the sample as indented examples.
        let tables = ["condition", "parameter", "target", "variants"].map(str::to_owned).into();
        let missing: Vec<&String> = known.difference(&found).filter(|key| !BTreeSet::contains(&tables, *key)).collect();
        assert!(missing.is_empty(), "[{section}]: {missing:?}");
    }
    // What excludes each other in a layer stands in the sample as indented examples.
    let layer = table["layer"][0].as_table().unwrap();
    let known = schema["properties"]["layer"]["items"]["properties"].as_object().unwrap();
    for key in known.keys() {
        let shown = layer.contains_key(key) || table["layer_defaults"].get(key).is_some();
        let example = |line: &str| {
            let line = line.trim_start_matches("#   ");
            line.starts_with(&format!("{key} = ")) || line.trim_matches(['[', ']']) == format!("layer.{key}")
        };
        assert!(shown || SAMPLE.lines().any(example), "[[layer]]: {key}");
    }
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = "[tileset]\nzoom = \"1-2\"\noutput = \"file.mbtiles\"\nname = \"of the file\"";
    let environment = [("OAR_TILES_ZOOM", "3-4"), ("OAR_TILES_OUTPUT", "env.mbtiles"), ("HOME", "/")];
    let flags = vec![("--zoom", "tileset.zoom", toml::Value::from("5-6"))];
    let values = gather_with(file, &environment, flags).unwrap();
    let settings = settings_of(&values, &[]).unwrap();
    assert_eq!(settings.tileset.zooms.to_string(), "5-6");
    assert_eq!(settings.tileset.output.to_str(), Some("env.mbtiles"));
    assert_eq!(settings.tileset.name, "of the file");
    let shown = values.show();
    assert!(shown.contains("zoom = \"5-6\"  # --zoom\n"), "{shown}");
    assert!(shown.contains("output = \"env.mbtiles\"  # OAR_TILES_OUTPUT\n"), "{shown}");
    assert!(shown.contains("gzip_level = 1  # default\n"), "{shown}");
}

#[test]
fn a_bad_variable_is_answered_with_its_name() {
    for (name, value, message) in [
        ("OAR_TILES_ZOM", "1", "the environment variable OAR_TILES_ZOM is unknown. Did you mean \"OAR_TILES_ZOOM\"?"),
        ("OAR_TILES_ZOOM", "9-1", "the environment variable OAR_TILES_ZOOM: the zoom range 9-1 is reversed: write 1-9"),
        ("OAR_TILES_WORKERS", "two", "the environment variable OAR_TILES_WORKERS is \"two\", which is no whole number"),
    ] {
        assert_eq!(gather_with("", &[(name, value)], Vec::new()).unwrap_err().to_string(), message);
    }
}

#[test]
fn settings_do_not_show_passwords() {
    let text = "[database]\nurl = \"postgresql://u:hunter2@h/d\"";
    assert!(!format!("{:?}", resolve(text).unwrap()).contains("hunter2"));
    assert!(!gather_with(text, &[], Vec::new()).unwrap().show().contains("hunter2"));
}
