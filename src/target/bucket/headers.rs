//! The headers of stored objects: which of the user's settings each kind of object gets.

use super::BucketOptions;
use super::client::ObjectHeaders;
use crate::tile::TileId;

const JSON: &str = "application/json";

pub(crate) fn of_tile(options: &BucketOptions, tile: TileId, packed: bool) -> ObjectHeaders {
    ObjectHeaders {
        content_type: options.format.media_type,
        is_gzip: packed,
        cache_control: options.cache_control_at(tile.coord.zoom()).map(str::to_owned),
        storage_class: options.section.storage_class.clone(),
        metadata: options.metadata_of(tile),
        encryption: options.section.encryption.clone(),
    }
}

/// The headers of a note, which is small and replaced in place: always the bucket's standard class, whose objects can
/// be read at once and replaced without a fee.
pub(crate) fn of_note(options: &BucketOptions) -> ObjectHeaders {
    ObjectHeaders {
        content_type: JSON,
        cache_control: Some(options.section.notes_cache_control.clone()),
        encryption: options.section.encryption.clone(),
        ..ObjectHeaders::default()
    }
}

pub(crate) fn of_archive(options: &BucketOptions, content_type: &'static str) -> ObjectHeaders {
    ObjectHeaders {
        content_type,
        is_gzip: false,
        cache_control: Some(options.section.notes_cache_control.clone()),
        storage_class: options.section.storage_class.clone(),
        metadata: options.archive_metadata(),
        encryption: options.section.encryption.clone(),
    }
}
