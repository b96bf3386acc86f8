//! Maps from third parties: `TopoJSON` from packages of npm (`scripts/test` installs them).

use std::process::Command;

use super::Db;

/// Makes a table `name` (id, name, g in EPSG:4326) of a layer of a `TopoJSON` file below `TEST_ATLAS`. GDAL reads it,
/// with invalid shapes as they are.
pub(crate) fn load(db: &Db, name: &str, file: &str, layer: &str) {
    let folder = std::env::var("TEST_ATLAS").expect("scripts/test installs the maps");
    let read = Command::new("ogr2ogr")
        .args(["-f", "GeoJSON", "-lco", "RFC7946=NO", "/vsistdout/", &format!("{folder}/{file}"), layer])
        .output()
        .expect("scripts/test installs GDAL");
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let features = String::from_utf8(read.stdout).unwrap();
    assert!(!features.contains("$map$"));
    db.run(&format!(
        "CREATE TABLE {name} AS SELECT number::int AS id, feature -> 'properties' ->> 'name' AS name,
             ST_SetSRID(ST_GeomFromGeoJSON(feature -> 'geometry'), 4326) AS g
             FROM json_array_elements($map${features}$map$::json -> 'features') WITH ORDINALITY AS f (feature, number)
             WHERE feature ->> 'geometry' IS NOT NULL;
         ALTER TABLE {name} ADD PRIMARY KEY (id); CREATE INDEX ON {name} USING gist (g)"
    ));
}
