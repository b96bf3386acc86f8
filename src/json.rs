//! The form of all JSON that the program prints, serves and writes.

use schemars::JsonSchema;
use serde::Serialize;

/// The version of this form. It grows if a field is removed or changes its meaning; a new field does not change it.
pub(crate) const JSON_VERSION: u32 = 1;

/// A JSON document: an object with the version of its form.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub(crate) struct JsonDocument<T> {
    /// The version of this form: 1.
    schema_version: u32,
    #[serde(flatten)]
    content: T,
}

impl<T> JsonDocument<T> {
    /// The document with this content, which has to be an object.
    pub(crate) const fn new(content: T) -> JsonDocument<T> {
        JsonDocument { schema_version: JSON_VERSION, content }
    }
}
