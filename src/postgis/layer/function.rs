//! A database function that returns whole tiles, as the probe found it.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A function that is called once for each tile.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CalledFunction {
    /// Its schema and name, quoted.
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    /// The argument after the tile's address, as JSON text; `None` if the function takes only the address.
    pub(crate) query: Option<String>,
    /// A hash of its text in the database.
    pub(crate) body: String,
    /// What its comment says of its tiles.
    pub(crate) comment: FunctionComment,
    /// True if the layer's rows determine where tiles may be.
    pub(crate) is_bounded: bool,
}

/// The comment of a function, if it is an object in the form of TileJSON. Members that are not read are left out.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct FunctionComment {
    /// What the tiles show.
    pub(crate) description: Option<String>,
    /// Whom to credit.
    pub(crate) attribution: Option<String>,
    /// The layers in its tiles (TileJSON 3.0.0, section 3.3).
    pub(crate) vector_layers: Vec<CommentLayer>,
    /// The kind of its tiles, as HTTP calls it.
    pub(crate) content_type: Option<String>,
}

/// A layer that a function's comment describes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct CommentLayer {
    /// Its name in the tile.
    pub(crate) id: String,
    pub(crate) description: String,
    /// The first zoom at which it is drawn.
    pub(crate) minzoom: Option<u8>,
    pub(crate) maxzoom: Option<u8>,
    /// The names of its properties, each with its type or another description.
    pub(crate) fields: BTreeMap<String, String>,
}

impl FunctionComment {
    /// Reads a comment. The result is empty if the comment is not such an object.
    pub(crate) fn read(comment: Option<&str>) -> FunctionComment {
        comment.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

impl CalledFunction {
    /// Its name and the types of its arguments.
    pub(crate) fn signature(&self) -> String {
        format!("{}({})", self.name, self.arguments.join(", "))
    }

    /// Everything about the function that decides the bytes of its tiles, for the fingerprint.
    pub(crate) fn definition(&self) -> String {
        let CalledFunction { query, body, .. } = self;
        format!("given by {} with {query:?}, whose text is {body}", self.signature())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_read_if_it_is_an_object_of_tilejson() {
        let text =
            r#"{"description": "Trees", "tiles": [1], "vector_layers": [{"id": "trees", "fields": {"n": "Number"}}]}"#;
        let comment = FunctionComment::read(Some(text));
        assert_eq!((comment.description.as_deref(), comment.vector_layers[0].id.as_str()), (Some("Trees"), "trees"));
        for nothing in [None, Some("Trees of the town"), Some("[1]"), Some(r#"{"vector_layers": 3}"#)] {
            assert_eq!(FunctionComment::read(nothing), FunctionComment::default(), "{nothing:?}");
        }
    }
}
