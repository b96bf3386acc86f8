//! The headers of stored objects (RFC 9110, section 8; Amazon S3 API Reference, `PutObject`).

use aws_sdk_s3::operation::copy_object::builders::CopyObjectFluentBuilder;
use aws_sdk_s3::operation::create_multipart_upload::builders::CreateMultipartUploadFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::types::{MetadataDirective, ServerSideEncryption, StorageClass};

use super::{Encryption, S3Headers};
use crate::tile::TileId;

/// Mapbox Vector Tile Specification 2.1, section 3: "MIME".
const MVT: &str = "application/vnd.mapbox-vector-tile";
const JSON: &str = "application/json";

impl Encryption {
    fn parts(&self) -> (Option<ServerSideEncryption>, Option<String>) {
        match self {
            Encryption::Bucket => (None, None),
            Encryption::Aes256 => (Some(ServerSideEncryption::Aes256), None),
            Encryption::Kms { key } => (Some(ServerSideEncryption::AwsKms), key.clone()),
        }
    }
}

fn storage_class(headers: &S3Headers) -> Option<StorageClass> {
    headers.storage_class.as_deref().map(StorageClass::from)
}

/// Sets the headers of a tile.
pub(crate) fn of_tile(
    request: PutObjectFluentBuilder,
    headers: &S3Headers,
    tile: TileId,
    packed: bool,
) -> PutObjectFluentBuilder {
    let (encryption, key) = headers.encryption.parts();
    request
        .content_type(MVT)
        .set_content_encoding(packed.then(|| "gzip".to_owned()))
        .set_cache_control(headers.cache_control(tile.coord.zoom()).map(str::to_owned))
        .set_storage_class(storage_class(headers))
        .set_metadata(Some(headers.metadata(tile)))
        .set_server_side_encryption(encryption)
        .set_ssekms_key_id(key)
}

/// Sets every header of a tile that is copied onto itself, as [`of_tile`] does: a copy that replaces metadata keeps
/// none of the old headers.
pub(crate) fn of_copy(
    request: CopyObjectFluentBuilder,
    headers: &S3Headers,
    tile: TileId,
    packed: bool,
) -> CopyObjectFluentBuilder {
    let (encryption, key) = headers.encryption.parts();
    request
        .metadata_directive(MetadataDirective::Replace)
        .content_type(MVT)
        .set_content_encoding(packed.then(|| "gzip".to_owned()))
        .set_cache_control(headers.cache_control(tile.coord.zoom()).map(str::to_owned))
        .set_storage_class(storage_class(headers))
        .set_metadata(Some(headers.metadata(tile)))
        .set_server_side_encryption(encryption)
        .set_ssekms_key_id(key)
}

/// Sets the headers of a note, which is small and replaced in place: always the bucket's standard class, whose objects
/// can be read at once and replaced without a fee.
pub(crate) fn of_note(request: PutObjectFluentBuilder, headers: &S3Headers) -> PutObjectFluentBuilder {
    let (encryption, key) = headers.encryption.parts();
    request
        .content_type(JSON)
        .set_cache_control(headers.notes_cache_control.clone())
        .set_server_side_encryption(encryption)
        .set_ssekms_key_id(key)
}

/// Sets the headers of an archive that one request uploads.
pub(crate) fn of_archive(
    request: PutObjectFluentBuilder,
    headers: &S3Headers,
    content_type: &str,
) -> PutObjectFluentBuilder {
    let (encryption, key) = headers.encryption.parts();
    request
        .content_type(content_type)
        .set_cache_control(headers.notes_cache_control.clone())
        .set_storage_class(storage_class(headers))
        .set_metadata(Some(headers.archive_metadata()))
        .set_server_side_encryption(encryption)
        .set_ssekms_key_id(key)
}

/// Sets the headers of an archive that is uploaded in parts.
pub(crate) fn of_parts(
    request: CreateMultipartUploadFluentBuilder,
    headers: &S3Headers,
    content_type: &str,
) -> CreateMultipartUploadFluentBuilder {
    let (encryption, key) = headers.encryption.parts();
    request
        .content_type(content_type)
        .set_cache_control(headers.notes_cache_control.clone())
        .set_storage_class(storage_class(headers))
        .set_metadata(Some(headers.archive_metadata()))
        .set_server_side_encryption(encryption)
        .set_ssekms_key_id(key)
}
