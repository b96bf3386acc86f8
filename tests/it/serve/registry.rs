//! The example of the Open Supply Hub's map on tables of its real shape: under each parameter, both layers show what a
//! statement of another making shows, before and after its writers' changes.

use std::fs;

use serde_json::Value;

use crate::support::features::features;
use crate::support::folder::Folder;
use crate::support::program::{program, run};
use crate::support::served::{Served, status};
use crate::support::{Db, repository, until};

/// Queries of the map, and the condition that each has to be.
const ASKED: [(&str, &str); 27] = [
    ("countries=bd&countries=TR", "country_code IN ('BD', 'TR')"),
    ("contributors=1&contributors=3", "1 = ANY (contributors_id) OR 3 = ANY (contributors_id)"),
    (
        "contributors=1&contributors=3&combine_contributors=AND",
        "1 = ANY (contributors_id) AND 3 = ANY (contributors_id)",
    ),
    ("contributors=1&contributors=3&combine_contributors=OR", "contributors_id && '{1,3}'"),
    ("lists=2&countries=BD", "2 = ANY (lists) AND country_code = 'BD'"),
    ("lists=3&lists=4", "3 = ANY (lists) OR 4 = ANY (lists)"),
    ("contributor_types=Union", "'Union' = ANY (contrib_types)"),
    ("sectors=Textiles&sectors=Sector%209", "'Textiles' = ANY (sector) OR 'Sector 9' = ANY (sector)"),
    ("number_of_workers=1001-5000", "number_of_workers::text ~ '1001-5000'"),
    ("number_of_workers=More%20than%2010000&countries=CN", "number_of_workers::text ~ 'More' AND country_code = 'CN'"),
    ("facility_type=Final%20Product%20Assembly", "facility_type[1] ~ '^Final'"),
    ("processing_type=Sewing&processing_type=Dyeing", "processing_type::text ~ 'Sewing|Dyeing'"),
    // Words of the table: of a type of processing, its type of facility; of several types, in any case of letters;
    // beside a type itself.
    ("facility_type=Stitching", "facility_type[1] ~ '^Final'"),
    ("processing_type=CUT%20and%20Sew&processing_type=washing", "processing_type::text ~ 'Cutting|Sewing|Washing'"),
    ("product_type=SH%C3%96ES", "product_type::text ~ 'shoes'"),
    ("product_type=Sneakers&product_type=%22Jeans%20/%26%20:D%C3%A9-ni,m%20%22", "product_type::text ~ 'shoes|denim'"),
    ("native_language_name=t%C3%8Axtil", "native_language_name::text ~* 'Têxtil'"),
    (
        "parent_company=Parent%202&parent_company=4",
        "parent_company_name::text ~ '\"Parent 2\"' OR parent_company_id::text ~ '[{,]4[,}]'",
    ),
    (
        "partner_contributor=3",
        "id IN (SELECT facility_id FROM api_extendedfield, api_partnerfield AS p WHERE field_name = name AND name = 'emissions_estimate' AND p.active)",
    ),
    (
        "partner_contributor=4&sectors=Apparel",
        "'Apparel' = ANY (sector) AND id IN (SELECT facility_id FROM api_extendedfield, api_partnerfield AS p WHERE field_name = name AND p.active)",
    ),
    ("q=d%C3%A9nim", "name ~* 'denim'"),
    ("name=d%C3%A9nim&sort_by=name_asc&page=2", "name ~* 'denim'"),
    ("q={kept}", "id = '{kept}'"),
    (
        "q={merged}",
        "id = (SELECT coalesce(max(facility_id), '{merged}') FROM api_facilityalias WHERE os_id = '{merged}')",
    ),
    (
        "q=batch&embed=1&contributors=2",
        "2 = ANY (contributors_id) AND (name ~* 'batch' OR custom_text_search ~ '2[|]Batch')",
    ),
    ("q=denim&contributors=2", "2 = ANY (contributors_id) AND name ~* 'denim'"),
    (
        "boundary=POLYGON((80+15,110+15,110+30,80+15))",
        "ST_Contains(ST_GeomFromText('POLYGON((80 15,110 15,110 30,80 15))', 4326), location)",
    ),
];

/// The application's tables with some facilities, and the statements that say what its layers show.
fn registry(facilities: u32) -> Db {
    let db = Db::new();
    let folder = [
        include_str!("../../../scripts/open-supply-hub/tables.sql"),
        include_str!("../../../scripts/facilities.sql"),
        include_str!("../../../scripts/open-supply-hub/rows.sql"),
        include_str!("../../../scripts/open-supply-hub/triggers.sql"),
        include_str!("../../../scripts/open-supply-hub/oracle.sql"),
    ];
    for file in folder {
        db.run(&file.replace(":count", &facilities.to_string()).replace(":width", "800"));
    }
    db
}

/// What a server of the example answers, beside what the statements give.
struct Compared<'a> {
    db: &'a Db,
    served: Served,
    /// Ids that stand in queries: of a facility, and of one that is merged into it.
    kept: String,
    merged: String,
    /// Tiles of each layer around facilities.
    tiles: [Vec<(i32, i32, i32)>; 2],
}

impl Compared<'_> {
    fn count(&self, tileset: &str, query: &str) -> i64 {
        let answer = self.served.get(&format!("/{tileset}/count.json?{query}"), "");
        assert_eq!(status(&answer), 200, "{query} {}", answer.head);
        serde_json::from_slice::<Value>(&answer.body).unwrap()["layers"][tileset]["count"].as_i64().unwrap()
    }

    fn oracle(&self, tileset: &str, (z, x, y): (i32, i32, i32), condition: &str) -> Vec<u8> {
        let quoted = condition.replace('\'', "''");
        self.db.value(&format!("SELECT coalesce(oracle_{tileset}({z}, {x}, {y}, '{quoted}'), '')"))
    }

    /// True if a tile is answered as expected: with the same bytes, or, as the bounds of cells are worked out in
    /// another way, with the same features.
    fn shows(&self, tileset: &str, (z, x, y): (i32, i32, i32), query: &str, expected: &[u8]) -> bool {
        let answer = self.served.get(&format!("/tile/{tileset}/1712-8-ab12cd34/{z}/{x}/{y}.pbf?{query}"), "");
        assert_eq!(status(&answer), 200, "{z}/{x}/{y} {query} {}", answer.head);
        if tileset == "facilities" || answer.body.is_empty() || expected.is_empty() {
            return answer.body == expected;
        }
        let (found, expected) = (features(&answer.body, tileset), features(expected, tileset));
        found.len() == expected.len() && found.iter().zip(&expected).all(|(one, other)| one.is_like(other))
    }

    /// Waits for the count of each query, then compares tiles, and gives how many of them are not empty.
    fn all(&self, when: &str) -> usize {
        let with_ids = |text: &str| text.replace("{kept}", &self.kept).replace("{merged}", &self.merged);
        let mut filled = 0;
        for (query, condition) in ASKED.iter().chain(&[("", "true")]) {
            let (query, condition) = (with_ids(query), with_ids(condition));
            let expected: i64 = self.db.value(&format!("SELECT count(*) FROM api_facilityindex WHERE {condition}"));
            assert!(expected > 0, "{condition}: chooses nothing");
            for (tileset, tiles) in ["facilities", "facilitygrid"].into_iter().zip(&self.tiles) {
                until(&format!("{tileset} {query}: {expected} {when}"), || self.count(tileset, &query) == expected);
                for tile in tiles {
                    let expected = self.oracle(tileset, *tile, &condition);
                    filled += usize::from(!expected.is_empty());
                    // A change that leaves the count as it was may not have been seen yet.
                    until(&format!("{tile:?} {query} {when}, as the statement gives it"), || {
                        self.shows(tileset, *tile, &query, &expected)
                    });
                }
            }
        }
        filled
    }
}

#[test]
fn the_example_shows_what_the_statements_say_under_each_parameter_and_after_each_change() {
    let (db, folder) = (registry(1_500), Folder::new());
    let path = |name: &str| folder.beside(name).display().to_string();
    let example = fs::read_to_string(repository("examples/open-supply-hub.toml")).unwrap();
    let outputs = path("{tileset}.mbtiles");
    let config = folder.config(&example.replace("\"{tileset}.mbtiles\"", &format!("{outputs:?}")));
    let common = ["--config", &config, "--database-url", &db.url];
    run(program().args(["track", "install"]).args(common)).ok();
    run(program().args(["seed", "--progress", "none", "--zoom", "1-2,12"]).args(common)).ok();
    let mut command = program();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]).args(common);
    // Beside the most facilities.
    let around = |zoom: i32, most: i32| -> Vec<(i32, i32, i32)> {
        let rows = db.rows(&format!(
            "SELECT floor((ST_X(m) + 20037508.342789244) / 40075016.685578488 * (1 << {zoom}))::int, floor((20037508.342789244 - ST_Y(m)) / 40075016.685578488 * (1 << {zoom}))::int
             FROM (SELECT ST_Transform(location, 3857) AS m FROM api_facility) AS r GROUP BY 1, 2 ORDER BY count(*) DESC, 1, 2 LIMIT {most}"
        ));
        rows.iter().map(|row| (zoom, row.get(0), row.get(1))).collect()
    };
    let ids: Vec<String> =
        db.rows("SELECT id FROM api_facility ORDER BY hashtext(id) LIMIT 2").iter().map(|row| row.get(0)).collect();
    let compared = Compared {
        db: &db,
        served: Served::of(&mut command),
        kept: ids[0].clone(),
        merged: ids[1].clone(),
        tiles: [
            [around(12, 2), around(13, 1), around(15, 1)].concat(),
            [around(1, 1), around(2, 1), around(4, 2), around(7, 1), around(11, 1)].concat(),
        ],
    };
    assert!(compared.all("at first") > 100);
    // What the page of a server offers: each type, although requests give it in lower case.
    let offered = compared.served.json("/facilities/values.json")["layers"]["facilities"]["values"].clone();
    let values = |name: &str| offered[name].as_array().unwrap().len();
    assert_eq!((values("facility_type"), values("processing_type")), (3, 5), "{offered}");

    let equal_index = |when: &str| {
        let columns = "id, name, location, contributors_id, contrib_types, lists, sector, number_of_workers, custom_text_search, product_type, parent_company_id";
        let wrong: i64 = db.value(&format!(
            "SELECT count(*) FROM (SELECT {columns} FROM api_facilityindex EXCEPT SELECT {columns} FROM index_rows) AS one"
        ));
        assert_eq!(wrong, 0, "{when}: index rows that the triggers left behind");
    };
    db.run(&format!(
        "UPDATE api_facility SET name = 'Denim of ' || name, location = ST_Translate(location, 0.001, 0) WHERE hashtext(id) % 50 = 0;
         INSERT INTO api_extendedfield (facility_id, contributor_id, field_name, value) SELECT id, 1, field, '{{\"raw\": \"Shoes\"}}'
             FROM api_facility, unnest(ARRAY['product_type', 'wage_survey']) AS field WHERE hashtext(id) % 40 = 1;
         SELECT merge_facilities('{}', '{}')",
        compared.kept, compared.merged
    ));
    equal_index("edits");
    compared.all("after edits and a merge");
    // A list is switched off in one statement, another one row by row, and a third is no longer approved.
    db.run(
        "UPDATE api_source SET is_active = false WHERE facility_list_id = 1;
         UPDATE api_facilitymatch SET is_active = false WHERE facility_list_item_id IN (SELECT id FROM api_facilitylistitem WHERE source_id = 3 AND id % 2 = 0);
         UPDATE api_facilitylist SET status = 'REJECTED' WHERE id = 5;
         UPDATE api_contributor SET contrib_type = 'Union' WHERE id = 2;
         UPDATE api_partnerfield SET active = false WHERE name = 'wage_survey'",
    );
    equal_index("lists");
    compared.all("after lists were switched off");
}
