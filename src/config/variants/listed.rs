//! Values of variants that the file lists.

use crate::postgis::{VariantParameter, VariantTable};

use super::template::is_parameter_name;

/// The table of values, or a message about what is wrong with it.
pub(in crate::config) fn table_of(tables: &[toml::Table]) -> Result<VariantTable, String> {
    let Some(first) = tables.first() else { return Ok(VariantTable { parameters: Vec::new(), rows: Vec::new() }) };
    let mut parameters = Vec::new();
    for (name, value) in first {
        if !is_parameter_name(name) {
            return Err(format!("has the name {name:?}: write letters, digits and _"));
        }
        let Some(kind) = kind_of(value) else {
            return Err(format!(
                "has {value} for {name}: write a text, a number, true or false, or a list of one of them"
            ));
        };
        parameters.push(VariantParameter { name: name.clone(), kind });
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (number, table) in tables.iter().enumerate() {
        let place = number + 1;
        if let Some(other) = table.keys().find(|name| !first.contains_key(*name)) {
            return Err(format!(
                "has {other} in its table {place} and not in the first: give all tables the same names"
            ));
        }
        let mut row = Vec::new();
        for VariantParameter { name, kind } in &parameters {
            let Some(value) = table.get(name) else {
                return Err(format!("lacks {name} in its table {place}: give all tables the same names"));
            };
            if kind_of(value).as_ref() != Some(kind) {
                return Err(format!(
                    "has {value} for {name} in its table {place}, and the first has a value of type {kind}: give all values one type"
                ));
            }
            row.push(text_of(value));
        }
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows.sort();
    Ok(VariantTable { parameters, rows })
}

/// The type of a value, in PostgreSQL's words.
fn kind_of(value: &toml::Value) -> Option<String> {
    Some(match value {
        toml::Value::String(_) => "text".to_owned(),
        toml::Value::Integer(_) => "bigint".to_owned(),
        toml::Value::Float(_) => "double precision".to_owned(),
        toml::Value::Boolean(_) => "boolean".to_owned(),
        toml::Value::Array(values) => {
            let kind = kind_of(values.first()?)?;
            let is_alike = values.iter().all(|value| kind_of(value).as_ref() == Some(&kind));
            if !is_alike || kind.ends_with("[]") {
                return None;
            }
            format!("{kind}[]")
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
    })
}

/// A value in the form that PostgreSQL reads.
fn text_of(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => {
            let quoted =
                |value: &toml::Value| format!("\"{}\"", text_of(value).replace('\\', "\\\\").replace('"', "\\\""));
            format!("{{{}}}", values.iter().map(quoted).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &str) -> Result<VariantTable, String> {
        let table: toml::Table = toml::from_str(&format!("values = {list}")).unwrap();
        let toml::Value::Array(tables) = &table["values"] else { panic!("{list}") };
        table_of(&tables.iter().map(|table| table.as_table().unwrap().clone()).collect::<Vec<_>>())
    }

    #[test]
    fn values_have_the_types_of_the_file() {
        let table = of(
            r#"[{ a = "x", n = 3, l = ["p\"q", "r\\"] }, { a = "a", n = 4, l = ["s"] }, { a = "x", n = 3, l = ["p\"q", "r\\"] }]"#,
        );
        let table = table.unwrap();
        let kinds: Vec<_> = table.parameters.iter().map(|one| format!("{} {}", one.name, one.kind)).collect();
        assert_eq!(kinds, ["a text", "n bigint", "l text[]"]);
        assert_eq!(table.rows, [vec!["a", "4", "{\"s\"}"], vec!["x", "3", "{\"p\\\"q\",\"r\\\\\"}"]]);
        assert_eq!(of("[]").unwrap().rows.len(), 0);
    }

    #[test]
    fn tables_that_do_not_fit_are_refused() {
        for (list, what) in [
            ("[{ a = 1 }, { b = 1 }]", "has b in its table 2"),
            ("[{ a = 1, b = 2 }, { b = 1 }]", "lacks a in its table 2"),
            ("[{ a = 1 }, { a = \"1\" }]", "the first has a value of type bigint"),
            ("[{ \"a b\" = 1 }]", "has the name \"a b\""),
            ("[{ a = 2020-01-01 }]", "write a text"),
            ("[{ a = [] }]", "write a text"),
            ("[{ a = [1, \"x\"] }]", "write a text"),
        ] {
            let error = of(list).unwrap_err();
            assert!(error.contains(what), "{list}: {error}");
        }
    }
}
