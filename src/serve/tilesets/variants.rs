//! The variants of a family, as the server gets them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::serve::tilesets::opening::TilesetParts;
use crate::serve::writer::FamilyWriter;
use crate::sink::ReadError;

/// The family of a tileset's variants.
pub struct FamilyParts {
    /// The name of the tileset.
    pub name: String,
    /// The names of the values in an address, in their order.
    pub values: Vec<String>,
    /// The manifest.
    pub source: Arc<dyn VariantSource>,
    /// The writer that keeps the variants up to date while the server runs; `None` to leave that to others.
    pub writer: Option<Arc<dyn FamilyWriter>>,
}

/// The manifest of a family.
pub trait VariantSource: Send + Sync {
    /// The variants that the manifest lists; `None` if it still is the one with the tag `known`. Blocks.
    ///
    /// # Errors
    /// If the manifest cannot be read or does not exist.
    fn read(&self, known: Option<&str>) -> Result<Option<VariantListing>, ReadError>;
}

/// The variants that a family's manifest lists.
pub struct VariantListing {
    /// What identifies the manifest.
    pub tag: String,
    /// The database state that all variants show.
    pub snapshot: String,
    /// The variants whose values are among those of the family.
    pub variants: Vec<ListedVariant>,
    /// Opens one of them.
    pub open: VariantOpener,
}

/// Opens the variant of this number. Called on a runtime; does not wait.
pub type VariantOpener = Arc<dyn Fn(usize) -> Result<TilesetParts, ReadError> + Send + Sync>;

/// A variant in the manifest of its family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVariant {
    /// Its values, in the order of the address.
    pub values: Vec<String>,
    /// Its values as they are written in its output and in its address: letters and digits of ASCII, `-`, `_`, `.` and `~XX`.
    pub segments: Vec<String>,
}

/// The variants of a listing, found by their values and by their addresses.
pub(crate) struct KnownVariants {
    pub(crate) listing: VariantListing,
    by_values: HashMap<Vec<String>, usize>,
    by_segments: HashMap<Vec<String>, usize>,
}

/// A variant that an address names: its number in the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundVariant(pub(crate) usize);

impl KnownVariants {
    /// The variants of a listing.
    pub(crate) fn of(listing: VariantListing) -> KnownVariants {
        let by = |of: fn(&ListedVariant) -> &Vec<String>| {
            listing.variants.iter().enumerate().map(|(number, variant)| (of(variant).clone(), number)).collect()
        };
        let (by_values, by_segments) = (by(|variant| &variant.values), by(|variant| &variant.segments));
        KnownVariants { listing, by_values, by_segments }
    }

    /// True if there is a variant whose address has these segments.
    pub(crate) fn has(&self, segments: &[String]) -> bool {
        self.by_segments.contains_key(segments)
    }

    /// The variant with these percent-decoded values: either the segments of its output, or exactly its values.
    pub(crate) fn find(&self, values: &[String]) -> Option<FoundVariant> {
        self.by_segments.get(values).or_else(|| self.by_values.get(values)).map(|number| FoundVariant(*number))
    }
}
