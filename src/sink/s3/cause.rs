//! The error message of a server or the network, as one line.

use std::error::Error;

/// The error message of a server or the network, on one line and each part once: the SDK's errors spread and repeat it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Cause(pub(super) String);

impl std::fmt::Display for S3Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for S3Cause {}

/// An error and its causes on one line, each once.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = text + ": " + &said;
        }
        next = cause.source();
    }
    text
}
