//! What `init` prints and writes; a test with a database gives the texts.

use crate::texts::compare;

/// Compares what `init` has said with the snapshot.
#[track_caller]
pub(crate) fn compare_said(text: &str) {
    compare("init_said", text);
}

/// Compares what `init` has written with the snapshot.
#[track_caller]
pub(crate) fn compare_written(text: &str) {
    compare("init_file", text);
}
