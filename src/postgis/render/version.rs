//! The rendering version.

/// The rendering version, a part of the fingerprint of every target. Raise it with every change that makes some rows, under some configuration, give
/// other MVT bytes than before: in the statements, in tiles drawn from cached rows, in patches, in the choice of rows. Older targets then need a full
/// seed. Without a new version, older targets would count as up to date, or hold a mixture of old and new bytes.
/// `tests/it/rendering/drawing_versions.rs` compares the bytes of a small tileset with those recorded for this number.
pub const RENDERING_VERSION: u32 = 3;
