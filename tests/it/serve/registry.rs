//! The example of the Open Supply Hub's map: each of its parameters chooses the rows that SQL of the test chooses.

use std::fs;

use serde_json::Value;

use crate::support::folder::Folder;
use crate::support::program::{program, run};
use crate::support::served::{GZIP, Served, status};
use crate::support::{Db, repository, until};

/// The columns that the map reads, of the application's table.
const TABLE: &str = "
CREATE TABLE api_facilityindex (id varchar(32) PRIMARY KEY, name varchar(200), address varchar(200), country_code varchar(2), location geometry(Point, 4326),
    contributors_id int[], contrib_types varchar[], sector varchar(50)[], lists int[], custom_text_search text, number_of_workers text[],
    parent_company_name varchar[], parent_company_id int[], native_language_name varchar(2000)[]);
INSERT INTO api_facilityindex SELECT 'F' || i, 'Mill ' || i, 'Street ' || i, (ARRAY['BD', 'IN', 'CN', 'TR'])[1 + i % 4],
    ST_SetSRID(ST_MakePoint(88 + i % 37 * 0.1, 20 + i % 53 * 0.1), 4326), CASE WHEN i % 11 > 0 THEN ARRAY[1 + i % 5, 1 + i % 7] END,
    ARRAY['Union', 'T' || i % 3], CASE WHEN i % 10 > 0 THEN ARRAY['Apparel', 'S' || i % 9] ELSE '{}' END, ARRAY[1 + i % 30], 'c' || i % 4 || '|' || i,
    ARRAY[(ARRAY['Less than 1000', '1001-5000'])[1 + i % 2]], ARRAY['Acme ' || i % 3], ARRAY[i % 11], ARRAY['Tekstil ' || i]
    FROM generate_series(1, 600) AS i;
CREATE INDEX ON api_facilityindex USING gist (location);
CREATE TABLE api_facilityalias (os_id varchar(32) PRIMARY KEY, facility_id varchar(32));
INSERT INTO api_facilityalias VALUES ('OLD1', 'F7')";

/// Queries of the map, and the condition that each has to be.
const ASKED: [(&str, &str); 12] = [
    ("countries=bd&countries=TR", "country_code IN ('BD', 'TR')"),
    ("contributors=1&contributors=3", "1 = ANY (contributors_id) OR 3 = ANY (contributors_id)"),
    (
        "contributors=1&contributors=3&combine_contributors=AND",
        "1 = ANY (contributors_id) AND 3 = ANY (contributors_id)",
    ),
    ("lists=7&countries=BD", "7 = ANY (lists) AND country_code = 'BD'"),
    ("contributor_types=T2", "'T2' = ANY (contrib_types)"),
    ("sectors=S3&sectors=S4", "'S3' = ANY (sector) OR 'S4' = ANY (sector)"),
    ("number_of_workers=1001-5000", "number_of_workers = '{1001-5000}'"),
    ("native_language_name=TEKSTIL%2019", "native_language_name[1] ~* '^tekstil 19'"),
    ("parent_company=Acme%201&parent_company=10", "parent_company_name = '{Acme 1}' OR parent_company_id = '{10}'"),
    ("q=mill%2019", "name ~* 'mill 19'"),
    ("q=old1", "id = 'F7'"),
    ("q=c3%7C&embed=1&countries=CN", "custom_text_search ~ 'c3' AND country_code = 'CN'"),
];

#[test]
fn each_parameter_of_the_example_chooses_the_rows_that_it_says() {
    let (db, folder) = (Db::new(), Folder::new());
    db.run(TABLE);
    let path = |name: &str| folder.beside(name).display().to_string();
    let example = fs::read_to_string(repository("examples/open-supply-hub.toml")).unwrap();
    let outputs = path("{tileset}.mbtiles");
    let config = folder.config(&example.replace("\"{tileset}.mbtiles\"", &format!("{outputs:?}")));
    let common = ["--config", &config, "--database-url", &db.url];
    run(program().args(["track", "install"]).args(common)).ok();
    run(program().args(["seed", "--progress", "none", "--zoom", "1-2,12"]).args(common)).ok();
    let mut command = program();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]).args(common);
    let served = Served::of(&mut command);
    let counted = |tileset: &str, query: &str| {
        let answer = served.get(&format!("/{tileset}/count.json?{query}"), "");
        assert_eq!(status(&answer), 200, "{query} {}", answer.head);
        serde_json::from_slice::<Value>(&answer.body).unwrap()["layers"][tileset]["count"].as_i64().unwrap()
    };
    let all = |what: &str| {
        for (query, condition) in ASKED {
            let expected: i64 = db.value(&format!("SELECT count(*) FROM api_facilityindex WHERE {condition}"));
            for tileset in ["facilities", "facilitygrid"] {
                until(&format!("{tileset} {query}: {expected} {what}"), || counted(tileset, query) == expected);
            }
        }
    };
    all("at first");
    db.run("UPDATE api_facilityindex SET lists = '{}', contributors_id = array_remove(contributors_id, 3) WHERE lists = '{7}' OR id = 'F3'");
    db.run("DELETE FROM api_facilityindex WHERE id = 'F19'; INSERT INTO api_facilityalias VALUES ('F19', 'F7')");
    all("after a list was switched off, and a merge");
    // The application's own addresses, with its key in them.
    for address in ["facilitygrid/1712-8-ab12cd34/4/11/7", "facilities/any/12/3051/1806"] {
        let answer = served.get(&format!("/tile/{address}.pbf?countries=BD"), GZIP);
        assert_eq!(status(&answer), 200, "{address} {}", answer.head);
    }
    let inside: i64 = db
        .value("SELECT count(*) FROM api_facilityindex WHERE location && ST_MakeEnvelope(88.05, 20.05, 89, 22, 4326)");
    let boundary = "boundary=POLYGON((88.05+20.05,89+20.05,89+22,88.05+22,88.05+20.05))";
    assert!(inside > 10 && counted("facilities", boundary) <= inside && counted("facilities", boundary) > 0);
}
