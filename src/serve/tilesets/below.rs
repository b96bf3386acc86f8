//! What a path below a family names: a variant, or the tileset without conditions, which has the name of the family.

use std::sync::Arc;

use super::NamedVariant;
use super::family::SiteFamily;
use super::tileset::SiteTileset;

/// The list of a family's variants.
pub(crate) const LIST: &str = "variants.json";

/// What a path below a family names.
pub(super) enum BelowFamily<'a> {
    /// Something of a variant.
    Variant(NamedVariant<'a>),
    /// The list of the variants.
    List,
    /// Something of the tileset without conditions, or nothing.
    All,
}

/// What a path below a family names. `rest` begins with a slash, and is still percent-encoded; `all` is the tileset without conditions.
pub(super) fn below_family<'a>(family: &Arc<SiteFamily>, all: Option<&SiteTileset>, rest: &'a str) -> BelowFamily<'a> {
    let below = rest.strip_prefix('/').unwrap_or_default();
    if below == LIST {
        return BelowFamily::List;
    }
    let parts: Vec<&str> = below.split('/').collect();
    let count = family.values.len();
    let depth = all.map(|all| all.tiles.last().template.text().split('/').count());
    if parts.len() < count || is_of_all(&parts, count, depth) {
        return BelowFamily::All;
    }
    let decoded = parts.iter().take(count).map(|part| {
        let text = percent_encoding::percent_decode_str(part).decode_utf8();
        text.ok().map(std::borrow::Cow::into_owned)
    });
    let Some(values) = decoded.collect::<Option<Vec<String>>>() else { return BelowFamily::All };
    let known = family.known();
    let Some(found) = known.find(&values) else { return BelowFamily::All };
    let length: usize = parts.iter().take(count).map(|part| part.len() + 1).sum();
    let rest = rest.get(length..).filter(|rest| !rest.is_empty());
    BelowFamily::Variant(NamedVariant { family: Arc::clone(family), known, found, rest })
}

/// True if a path of these parts names something of the tileset without conditions, even if its first `count` parts may be the values of a variant.
/// The paths of the tileset's tiles have `depth` parts.
fn is_of_all(parts: &[&str], count: usize, depth: Option<usize>) -> bool {
    let Some(depth) = depth else { return false };
    let is_document = |part: &str| part.is_empty() || part == "changes" || part.ends_with("tiles.json");
    match &parts[count..] {
        [] => parts.last().is_some_and(|part| is_document(part)),
        [one] if is_document(one) => false,
        [_] if parts[0] == "assets" => true,
        ["assets", _] => false,
        _ => parts.len() == depth,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tileset_without_conditions_keeps_its_paths() {
        // With one value, and tiles of three parts.
        for (path, is_its) in [
            ("tiles.json", true),
            ("mills.tiles.json", true),
            ("changes", true),
            ("", true),
            ("5/3/2.pbf", true),
            ("assets/preview.js", true),
            ("bd", false),
            ("bd/", false),
            ("bd/tiles.json", false),
            ("bd/changes", false),
            ("5/5/3/2.pbf", false),
            ("5/tiles.json", false),
            ("assets/tiles.json", false),
            ("assets/5/3/2.pbf", false),
            ("bd/assets/preview.js", false),
        ] {
            let parts: Vec<&str> = path.split('/').collect();
            assert_eq!(is_of_all(&parts, 1, Some(3)), is_its, "{path}");
            assert!(!is_of_all(&parts, 1, None), "{path}");
        }
    }
}
