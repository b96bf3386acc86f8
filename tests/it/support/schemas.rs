//! The schemas of what the program prints as JSON.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::repository;

/// Asserts that documents fit the schema of a name.
#[track_caller]
pub(crate) fn fits(schema: &str, files: &[&Path]) {
    let python = PathBuf::from(std::env::var("TEST_PYTHON").expect("scripts/test installs it"));
    let mut check = Command::new(python.with_file_name("check-jsonschema"));
    let schema = repository("docs/schemas").join(format!("{schema}.json"));
    let done = check.arg("--schemafile").arg(&schema).args(files).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {said}", schema.display());
}

/// Asserts that a text fits the schema of a name.
#[track_caller]
pub(crate) fn text_fits(schema: &str, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("document.json");
    std::fs::write(&file, text).unwrap();
    fits(schema, &[&file]);
}
