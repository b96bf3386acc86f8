//! The version of what is rendered.

/// The version of how rows become MVT bytes; it stands in the fingerprint of every target. Raise it with every change after which some
/// rows, under some configuration, give other bytes than before: in the statements, in tiles put together from rows read once, in
/// patches, in which rows are drawn at all. Targets from before then need a full seed, rather than being called up to date or holding
/// both kinds of bytes. `tests/it/rendering/drawing_versions.rs` compares the bytes of a small tileset with those of this number.
pub const RENDERING_VERSION: u32 = 2;
