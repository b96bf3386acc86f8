//! README and manual as text, for tests that check their examples.

use super::repository;

/// README and every page of the manual, one after the other.
pub(crate) fn text() -> String {
    let mut pages: Vec<_> = std::fs::read_dir(repository("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|page| page.extension().is_some_and(|ending| ending == "md"));
    pages.sort();
    pages.insert(0, repository("README.md"));
    pages.iter().map(|page| std::fs::read_to_string(page).unwrap() + "\n").collect()
}

/// The code blocks of one language.
pub(crate) fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text().split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}
