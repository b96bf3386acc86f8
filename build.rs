//! Puts the version that `--version` prints together: the number, and in a release build the commit and its date.
//!
//! A development build has the number alone: otherwise each commit would compile the crate anew.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["SOURCE_COMMIT", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let number = variable("CARGO_PKG_VERSION").unwrap_or_default();
    let is_release = variable("PROFILE").is_some_and(|profile| profile == "release");
    let source = if is_release { source() } else { None };
    let version = source.map_or_else(|| number.clone(), |source| format!("{number} ({source})"));
    println!("cargo::rustc-env=BUILD_VERSION={version}");
}

// Cargo hands `BUILD_VERSION` to tests, too, and the program refuses variables that begin with its own name and are
// none of its settings.

/// Commit and date, such as `3e41d8b 2026-11-23`; `None` where nobody can tell, as in the files of an archive.
/// `SOURCE_COMMIT` stands in for git where the repository is not at hand, and `SOURCE_DATE_EPOCH` for the commit's date
/// (reproducible-builds.org).
fn source() -> Option<String> {
    let given = variable("SOURCE_COMMIT").map(|commit| commit.chars().take(12).collect());
    let in_repository = is_repository();
    if in_repository {
        watch_repository();
    }
    let commit = given.or_else(|| if in_repository { git(&["rev-parse", "--short=10", "HEAD"]) } else { None })?;
    let seconds = variable("SOURCE_DATE_EPOCH")
        .or_else(|| if in_repository { git(&["show", "--no-patch", "--format=%ct", "HEAD"]) } else { None });
    let day = seconds.and_then(|seconds| seconds.parse::<i64>().ok()).map(date);
    Some([Some(commit), day].into_iter().flatten().collect::<Vec<String>>().join(" "))
}

/// True if the crate's own folder is the top of a git repository. A copy of it inside another repository has not that
/// one's commits.
fn is_repository() -> bool {
    let canonical = |path: &str| Path::new(path).canonicalize().ok();
    let top = git(&["rev-parse", "--show-toplevel"]).and_then(|top| canonical(&top));
    top.is_some() && top == variable("CARGO_MANIFEST_DIR").and_then(|folder| canonical(&folder))
}

/// Has cargo run this script again after a commit or a checkout, and only then: cargo takes a file that does not exist
/// for one that changed.
fn watch_repository() {
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
    for name in ["HEAD", "logs/HEAD", "packed-refs", &branch] {
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).is_file()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// What git prints; `None` if it fails, is not installed, or prints nothing.
fn git(arguments: &[&str]) -> Option<String> {
    let done = Command::new("git").args(arguments).output().ok().filter(|done| done.status.success())?;
    let said = String::from_utf8(done.stdout).ok()?.trim().to_owned();
    (!said.is_empty()).then_some(said)
}

/// A variable of the environment that is set and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The day of a number of seconds since 1970, in UTC, as `YYYY-MM-DD`. Counts in years that begin in March, so that a
/// leap day is the last.
fn date(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
