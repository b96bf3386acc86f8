//! The headers of stored objects: which of the user's settings each kind of object gets.

use super::S3Headers;
use super::client::ObjectHeaders;
use crate::encode::TILE_TYPE;
use crate::tile::TileId;

const JSON: &str = "application/json";

/// The headers of a tile.
pub(crate) fn of_tile(headers: &S3Headers, tile: TileId, packed: bool) -> ObjectHeaders {
    ObjectHeaders {
        content_type: TILE_TYPE,
        is_gzip: packed,
        cache_control: headers.cache_control(tile.coord.zoom()).map(str::to_owned),
        storage_class: headers.storage_class.clone(),
        metadata: headers.metadata(tile),
        encryption: headers.encryption.clone(),
    }
}

/// The headers of a note, which is small and replaced in place: always the bucket's standard class, whose objects can
/// be read at once and replaced without a fee.
pub(crate) fn of_note(headers: &S3Headers) -> ObjectHeaders {
    ObjectHeaders {
        content_type: JSON,
        cache_control: headers.notes_cache_control.clone(),
        encryption: headers.encryption.clone(),
        ..ObjectHeaders::default()
    }
}

/// The headers of an archive.
pub(crate) fn of_archive(headers: &S3Headers, content_type: &'static str) -> ObjectHeaders {
    ObjectHeaders {
        content_type,
        is_gzip: false,
        cache_control: headers.notes_cache_control.clone(),
        storage_class: headers.storage_class.clone(),
        metadata: headers.archive_metadata(),
        encryption: headers.encryption.clone(),
    }
}
