//! The document that lists the variants of a family, in pages.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::below::LIST;
use super::family::SiteFamily;

/// The version of the form of the document (docs/json.md).
const JSON_VERSION: u32 = 1;

/// The most variants on a page.
const MAX_LISTED: usize = 1_000;

/// A page of the list of a family's variants.
#[derive(Debug, Serialize, JsonSchema)]
pub struct VariantListDocument {
    /// The version of this form: 1.
    schema_version: u32,
    /// The name of the tileset.
    name: String,
    /// The number of all variants.
    count: usize,
    /// The number of the page, from 1 on.
    page: usize,
    /// The number of pages.
    pages: usize,
    /// The URL of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// The variants of the page.
    variants: Vec<VariantInList>,
}

/// A variant in the list.
#[derive(Debug, Serialize, JsonSchema)]
pub struct VariantInList {
    /// Its values, by name: those that stand in its address.
    values: BTreeMap<String, String>,
    /// Its URL; ends with a slash. Its TileJSON is `tiles.json` below it.
    url: String,
}

/// The URL of a family below the server's, with a slash at its end.
pub(super) fn url_of(family: &SiteFamily, public_url: &str) -> String {
    format!("{public_url}{}", family.path())
}

/// The URL of the list of a family's variants.
pub(super) fn list_url_of(family: &SiteFamily, public_url: &str) -> String {
    format!("{}{LIST}", url_of(family, public_url))
}

/// A page of a family's variants, from 1 on; `None` if there is no such page. `public_url` is the server's URL, with a slash at its end.
pub(crate) fn document(family: &SiteFamily, public_url: &str, page: usize) -> Option<VariantListDocument> {
    let known = family.known();
    let all = &known.listing.variants;
    let pages = all.len().div_ceil(MAX_LISTED).max(1);
    if page == 0 || page > pages {
        return None;
    }
    let url = url_of(family, public_url);
    let listed = all.iter().skip((page - 1) * MAX_LISTED).take(MAX_LISTED).map(|variant| VariantInList {
        values: family.values.iter().cloned().zip(variant.values.iter().cloned()).collect(),
        url: format!("{url}{}", SiteFamily::path_of(&variant.segments)),
    });
    Some(VariantListDocument {
        schema_version: JSON_VERSION,
        name: family.name.to_string(),
        count: all.len(),
        page,
        pages,
        next: (page < pages).then(|| format!("{}?page={}", list_url_of(family, public_url), page + 1)),
        variants: listed.collect(),
    })
}
