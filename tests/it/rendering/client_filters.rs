//! The filters of the manual select what the same question in SQL selects. They are worked out here by the rules of
//! MapLibre's style specification ("Expressions"), as far as the manual needs them, not by MapLibre itself.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::archive::unpacked;
use crate::support::features::{Feature, Shown, features};
use crate::support::{Archive, Db, manual, seed};

/// An expression's value for a feature. What would make MapLibre log an error and drop the feature panics.
fn value(expression: &Value, feature: &Feature) -> Value {
    let Value::Array(parts) = expression else { return expression.clone() };
    let (name, arguments) = parts.split_first().unwrap();
    let of = |i: usize| value(&arguments[i], feature);
    let number = |i: usize| of(i).as_f64().unwrap_or_else(|| panic!("{expression}: no number"));
    let is_true = |argument: &Value| value(argument, feature).as_bool().unwrap();
    match name.as_str().unwrap() {
        "literal" => arguments[0].clone(),
        "get" => match feature.properties.get(arguments[0].as_str().unwrap()) {
            Some(Shown::Text(text)) => json!(text),
            Some(Shown::Whole(number)) => json!(number),
            Some(Shown::Number(number)) => json!(number),
            Some(Shown::Bool(yes)) => json!(yes),
            None => Value::Null,
        },
        "==" => match (of(0), of(1)) {
            (Value::Number(one), Value::Number(other)) => json!(one.as_f64() == other.as_f64()),
            (one, other) => json!(one == other),
        },
        "in" => match (of(0), of(1)) {
            (needle, Value::Array(values)) => json!(values.contains(&needle)),
            (Value::String(needle), Value::String(text)) => json!(text.contains(&needle)),
            other => panic!("{expression}: {other:?}"),
        },
        "%" => json!(number(0) % number(1)),
        "/" => json!(number(0) / number(1)),
        "floor" => json!(number(0).floor()),
        "any" => json!(arguments.iter().any(is_true)),
        "all" => json!(arguments.iter().all(is_true)),
        other => panic!("{other} is not used in the manual"),
    }
}

/// What each line of the manual's table asks for, in SQL.
const QUESTIONS: [&str; 7] = [
    "upper(country_code) IN ('BD', 'IN')",
    "'Brand / Retailer' = ANY (contrib_types)",
    "contrib_types && ARRAY['Brand / Retailer', 'Union']::varchar[]",
    "'Home Textiles' = ANY (sector)",
    "sector @> ARRAY['Apparel', 'Footwear']::varchar[]",
    "'Apparel' = ANY (sector) AND NOT sector && ARRAY['Footwear', 'Home Textiles', 'Equipment']::varchar[]",
    "number_of_workers && ARRAY['1001-5000', '5001-10000']::varchar[]",
];

/// Every part of the sectors, and some of the others: none, unknown ones, one twice.
const TABLE: &str = "
    CREATE TABLE api_facilityindex (id varchar(32) PRIMARY KEY, name varchar(200) NOT NULL, country_code varchar(2) NOT NULL,
        location geometry(Point, 4326) NOT NULL, contrib_types varchar(200)[] NOT NULL, sector varchar(50)[] NOT NULL,
        number_of_workers varchar(200)[] NOT NULL);
    INSERT INTO api_facilityindex
    SELECT format('%s', i), 'Mill', (ARRAY['BD', 'in', 'CN', 'IN'])[1 + i % 4], ST_SetSRID(ST_MakePoint(90, 23), 4326),
        (SELECT COALESCE(array_agg(t), '{}') FROM unnest(ARRAY['Brand / Retailer', 'Union', 'Other', 'Brand / Retailer', 'Nobody''s']) WITH ORDINALITY AS u (t, n) WHERE i * 7 >> n::int & 1 = 1),
        (SELECT COALESCE(array_agg(t), '{}') FROM unnest(ARRAY['Footwear', 'Apparel', 'Equipment', 'Home Textiles', 'Toys']) WITH ORDINALITY AS u (t, n) WHERE i >> (n::int - 1) & 1 = 1),
        (SELECT COALESCE(array_agg(t), '{}') FROM unnest(ARRAY['1001-5000', 'Less than 1000', '5001-10000', 'More than 10000', '17']) WITH ORDINALITY AS u (t, n) WHERE i * 11 >> n::int & 1 = 1)
    FROM generate_series(0, 95) AS i";

#[test]
fn the_filters_of_the_manual_select_what_sql_selects() {
    let text = manual::text();
    let table = text.split("| users ask for | MapLibre filter |\n|---|---|\n").nth(1).expect("the table of filters");
    let filters: Vec<Value> = table
        .lines()
        .take_while(|line| line.starts_with("| "))
        .map(|line| serde_json::from_str(line.split('`').nth(1).unwrap()).unwrap())
        .collect();
    assert_eq!(filters.len(), QUESTIONS.len());
    let mut examples = text.split("```toml\n").filter_map(|block| block.split("```").next());
    let config = examples.find(|example| example.contains("table = \"api_facilityindex\"")).expect("the example");
    let db = Db::new();
    db.run(TABLE);
    let folder = tempfile::tempdir().unwrap();
    let (file, output) = (folder.path().join("c.toml"), folder.path().join("t.mbtiles"));
    std::fs::write(&file, config).unwrap();
    seed(&db.url, &output, &["--config", file.to_str().unwrap(), "--zoom", "12"]).ok();
    let stored = Archive::open(&output).stored();
    let drawn = features(&unpacked(stored.values().next().unwrap()), "facilities");
    assert_eq!(drawn.len(), 96);
    for (filter, question) in filters.iter().zip(QUESTIONS) {
        let rows = db.rows(&format!("SELECT id FROM api_facilityindex WHERE {question}"));
        let expected: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let id = |feature: &Feature| value(&json!(["get", "id"]), feature).as_str().unwrap().to_owned();
        let selected = drawn.iter().filter(|feature| value(filter, feature).as_bool().unwrap()).map(id);
        assert_eq!(selected.collect::<BTreeSet<_>>(), expected, "{filter}");
        assert!(expected.len() > 1 && expected.len() < 90, "{question}: {}", expected.len());
    }
}
