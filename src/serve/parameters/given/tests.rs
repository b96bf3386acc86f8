use std::num::NonZeroUsize;

use regex_lite::Regex;
use serde_json::json;

use super::super::declared::{LetterCase, ParameterBounds};
use super::*;

fn parameter(name: &str, kind: ParameterType, most: Option<usize>) -> Parameter {
    let bounds = ParameterBounds {
        case: LetterCase::Keep,
        allowed: Vec::new(),
        pattern: None,
        max_length: 10,
        min: None,
        max: None,
    };
    Parameter { name: name.to_owned(), description: None, kind, most: most.and_then(NonZeroUsize::new), bounds }
}

fn declared() -> TilesetParameters {
    let mut country = parameter("country", ParameterType::Text, Some(3));
    country.bounds.case = LetterCase::Upper;
    country.bounds.pattern = Regex::new("^(?:[A-Z]{2})$").ok();
    let mut workers = parameter("workers", ParameterType::Integer, None);
    (workers.bounds.min, workers.bounds.max) = (Some(0.0), Some(1000.0));
    let mut kind = parameter("kind", ParameterType::Text, None);
    kind.bounds.allowed = vec!["mill".to_owned(), "farm".to_owned()];
    TilesetParameters(vec![
        country,
        workers,
        kind,
        parameter("name", ParameterType::Text, None),
        parameter("share", ParameterType::Number, Some(2)),
        parameter("open", ParameterType::Boolean, None),
        parameter("box", ParameterType::Box, None),
    ])
}

fn read(query: &str) -> Result<Option<GivenParameters>, String> {
    given(&declared(), Some(query), UndeclaredNames::Drop).map_err(|error| error.to_string())
}

fn one_form(query: &str) -> String {
    read(query).unwrap_or_else(|error| panic!("{query}: {error}")).map(|given| given.query()).unwrap_or_default()
}

#[test]
fn a_set_of_values_has_one_form_however_it_is_written() {
    for (form, queries) in [
        (
            "country=BD&country=IN",
            &[
                "country=IN&country=BD",
                "country=bd&x=1&country=in&country=BD",
                "%63ountry=%42D&country=IN&",
                "&&country=IN&country=BD&y",
            ][..],
        ),
        ("workers=7", &["workers=7", "workers=007", "workers=%2B7", "workers=7&workers=07", "v=2&workers=7#"]),
        ("name=a%20b%26c%3Dd", &["name=a+b%26c%3Dd", "name=a%20b%26c=d"]),
        ("share=0&share=0.5", &["share=.5&share=-0", "share=0.50&share=0e3&share=5e-1"]),
        ("open=true&box=-10,0,20.5,30", &["box=-10.0,0,20.50,3e1&open=true"]),
        ("", &["", "country=", "country", "x=1", "%FF=1", "Country=BD", "country%00=BD", "=", "&", "name=&box="]),
    ] {
        for query in queries {
            let query = query.trim_end_matches('#');
            assert_eq!(one_form(query), form, "{query}");
            assert_eq!(one_form(&one_form(query)), form, "{query}");
        }
    }
    let key = |query: &str| read(query).unwrap().unwrap().key;
    assert_eq!(key("country=IN&country=BD"), key("country=bd&country=in"));
    let different = [
        "country=IN",
        "country=BD",
        "country=IN&country=BD",
        "name=BD",
        "name=IN",
        "name=country",
        "workers=1",
        "share=1",
    ];
    let keys: std::collections::BTreeSet<ParametersKey> = different.iter().map(|query| key(query)).collect();
    assert_eq!(keys.len(), different.len());
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let long = format!("name={}", "x".repeat(11));
    let huge = format!("name={}", "x".repeat(MAX_QUERY_BYTES));
    let many = "a&".repeat(513);
    let digits = format!("share=0.{}", "1".repeat(200));
    for (query, expected) in [
        ("country=BD&country=IN&country=US&country=DE", "parameter country: more than 3 different values"),
        ("workers=1&workers=2", "parameter workers: more than 1 different values"),
        ("country=Bangladesh", "parameter country: a value does not match the pattern"),
        ("country=B'", "does not match the pattern"),
        ("workers=1.5", "is no whole number"),
        ("workers=1;DROP TABLE x", "is no whole number"),
        ("workers=99999999999999999999", "is no whole number"),
        ("workers=-1", "is less than 0"),
        ("workers=1001", "is more than 1000"),
        ("kind=Mill", "is not one of those allowed"),
        ("name=a%00b", "has control characters"),
        ("name=%0a", "has control characters"),
        ("name=%FF", "is no UTF-8"),
        ("name=%C3%28", "is no UTF-8"),
        (&long, "has more than 10 characters"),
        (&huge, "more than 8192 bytes"),
        (&many, "more than 512 names"),
        ("share=inf", "is no number"),
        ("share=NaN", "is no number"),
        ("share=0x10", "is no number"),
        ("share=1e999", "is no number"),
        (&digits, "is no number"),
        ("open=1", "is neither true nor false"),
        ("box=1,2,3", "is no box"),
        ("box=1,2,3,4,5", "is no box"),
        ("box=20,0,10,1", "west must not be greater than east"),
        ("box=0,0,181,1", "is no box"),
        ("box=a,b,c,d", "is no box"),
    ] {
        let error = read(query).unwrap_err();
        assert!(error.contains(expected), "{query}: {error}");
        assert!(!error.contains("DROP") && error.len() < 120, "{error}");
    }
    let refused = given(&declared(), Some("v=1"), UndeclaredNames::Refuse).unwrap_err().to_string();
    assert_eq!(refused, "the tileset takes the parameters country, workers, kind, name, share, open, box");
    let none = given(&TilesetParameters::default(), Some("v=1"), UndeclaredNames::Refuse).unwrap_err();
    assert_eq!(none.to_string(), "the tileset takes no parameters");
}

#[test]
fn values_reach_the_database_as_arrays_and_functions_as_json() {
    let given = read("name=%7B%22a%5C%7D%27&country=us&workers=3&box=1,2,3,4&open=false&share=2").unwrap().unwrap();
    let arrays: Vec<String> = given.given.iter().map(GivenParameter::array).collect();
    assert_eq!(
        arrays,
        [r#"{"US"}"#, r#"{"3"}"#, r#"{"{\"a\\}'"}"#, r#"{"2"}"#, r#"{"false"}"#, r#"{"1","2","3","4"}"#]
    );
    let expected = json!({ "country": ["US"], "workers": 3, "name": "{\"a\\}'", "share": [2], "open": false, "box": [1, 2, 3, 4] });
    assert_eq!(serde_json::Value::Object(given.json()), expected);
}

/// Random queries of all kinds of pieces: reading one ends, and the canonical form of what was read is read as the same values.
#[test]
fn no_query_does_harm() {
    let pieces = [
        "country=BD",
        "&country=in",
        "&name=a+b",
        "&box=1,2,3,4",
        "&workers=7",
        "&share=1e3",
        "&",
        "&&x=",
        "country",
        "=",
        "%",
        "%4",
        "%41",
        "+",
        "\u{e9}",
        "%C3",
        "%A9",
        "-",
        "%00",
        "'",
        "\"",
        "{",
        "\\",
        ";",
    ];
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).unwrap()
    };
    let mut kept = 0;
    for _ in 0..20_000 {
        let query: String = (0..next(5)).map(|_| pieces[next(pieces.len())]).collect();
        if let Ok(Some(given)) = read(&query) {
            kept += 1;
            let again = read(&given.query()).unwrap().unwrap();
            assert_eq!(again, given, "{query}");
        }
    }
    assert!(kept > 100, "{kept}");
}
