//! The crates that the program is built from, held to `deny.toml` without cargo-deny: `scripts/deny` looks closer, and
//! takes minutes to be built.

use std::collections::BTreeMap;
use std::process::Command;

use toml::{Table, Value};

use crate::support::repository;

fn table(file: &str) -> Table {
    std::fs::read_to_string(repository(file)).unwrap().parse().unwrap()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Whether an SPDX expression, as far as crates use them, can be met by allowed licences alone. Older crates write a
/// slash for OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let text = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = text.split_whitespace().peekable();
    let allowed = any(&mut words, allowed);
    assert_eq!(words.next(), None, "{expression}");
    allowed
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut found = all(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        found |= all(words, allowed);
    }
    found
}

fn all(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut found = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        found &= one(words, allowed);
    }
    found
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let found = any(words, allowed);
        assert_eq!(words.next(), Some(")"));
        return found;
    }
    let mut licence = words.next().unwrap().to_owned();
    if words.next_if_eq(&"WITH").is_some() {
        licence = format!("{licence} WITH {}", words.next().unwrap());
    }
    allowed.contains(&licence)
}

#[test]
fn every_crate_has_an_allowed_licence_and_comes_from_an_allowed_place() {
    let deny = table("deny.toml");
    let allowed = texts(&deny["licenses"]["allow"]);
    for (expression, expected) in [
        ("MIT", true),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0-only OR MIT", true),
        ("GPL-3.0-only", false),
        ("(MIT OR GPL-3.0-only) AND Unicode-3.0", true),
        ("MIT AND GPL-3.0-only", false),
        ("Apache-2.0 WITH LLVM-exception", false),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // What other platforms need was not downloaded.
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", host])
        .current_dir(repository(""))
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{}", packages.len());
    let registries = texts(&deny["sources"]["allow-registry"]);
    for package in packages {
        let name = &package["name"];
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        assert!(is_allowed(licence, &allowed), "{name} is under {licence}, which deny.toml does not allow");
        if let Some(source) = package["source"].as_str() {
            let registry = source.strip_prefix("registry+").unwrap_or(source);
            assert!(registries.iter().any(|allowed| allowed == registry), "{name} comes from {source}");
        }
    }
}

#[test]
fn no_crate_is_there_in_two_versions_unless_deny_toml_says_why() {
    let (deny, lock) = (table("deny.toml"), table("Cargo.lock"));
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock["package"].as_array().unwrap() {
        versions.entry(package["name"].as_str().unwrap()).or_default().push(package["version"].as_str().unwrap());
    }
    let bans = deny["bans"].as_table().unwrap();
    for banned in bans["deny"].as_array().unwrap() {
        let name = banned["crate"].as_str().unwrap();
        assert!(!versions.contains_key(name), "{name} is banned: {}", banned["reason"]);
    }
    let mut skipped: Vec<(&str, &str)> = Vec::new();
    for line in bans["skip"].as_array().unwrap() {
        assert!(line["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{line}");
        skipped.push(line["crate"].as_str().unwrap().split_once('@').unwrap());
    }
    let is = |version: &str, skipped: &str| version == skipped || version.starts_with(&format!("{skipped}."));
    for (name, versions) in &versions {
        let left =
            versions.iter().filter(|version| !skipped.iter().any(|(other, old)| other == name && is(version, old)));
        assert_eq!(left.count(), 1, "{name} is there as {versions:?}");
    }
    for (name, old) in skipped {
        let there = versions.get(name).is_some_and(|versions| versions.iter().any(|version| is(version, old)));
        assert!(there, "deny.toml skips {name}@{old}, which is not there any more: remove the line");
    }
}
