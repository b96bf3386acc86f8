//! Every text that users see, as snapshots: help, closing tables, `config`, the error catalogue. A changed text shows
//! in review.
//!
//! `INSTA_UPDATE=always scripts/test texts` writes the snapshots anew; `scripts/test` and CI only compare.

pub(crate) mod config;
pub(crate) mod errors;
pub(crate) mod help;
pub(crate) mod init;
pub(crate) mod schemas;
pub(crate) mod snapshots;
pub(crate) mod tables;

/// Compares a text with the snapshot of this name.
#[track_caller]
fn compare(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(crate::support::repository("tests/it/texts/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}
