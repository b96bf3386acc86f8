//! Why a server could not start.

use std::path::PathBuf;

use tokio::task::JoinError;

use super::http::address::ListenAddress;
use super::jobs::TokenError;
use super::live::LiveError;
use super::redis::RedisUrlError;
use super::signature::SigningKeyError;
use crate::error::ErrorKind;
use crate::target::ReadError;

/// Why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Target(#[from] ReadError),
    #[error("tileset \"{name}\" cannot be served")]
    Tileset { name: String, kind: ErrorKind, source: Box<ServeError> },
    #[error("cannot listen on {address}: choose another address, or end the program that uses it")]
    Listen { address: ListenAddress, source: std::io::Error },
    #[error(
        "{address} is no address that clients can name, and the TileJSON has to say where the tiles are: give --public-url https://…"
    )]
    NoPublicUrl { address: ListenAddress },
    #[error("{value:?} cannot be sent as {header}: it has characters that no header may have")]
    Header { header: &'static str, value: String },
    #[error(
        "cannot read {}: assets has to name a folder with maplibre-gl.js and maplibre-gl.css of version 5 (dist in the npm package maplibre-gl)", path.display()
    )]
    Assets { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Redis(RedisUrlError),
    /// Live tiles would not fit the target's tiles.
    #[error(transparent)]
    Live(LiveError),
    #[error(
        "cdn_cache_control {value:?} has no max-age, of which cdn_headers is to make an s-maxage: write max-age=SECONDS, or leave \"s-maxage\" out of cdn_headers"
    )]
    NoMaxAge { value: String },
    #[error(
        "cache_control says immutable, and the tiles of this target change under their names, so that caches would keep old ones: leave immutable out, or publish versions ({{version}} in the template)"
    )]
    Immutable,
    /// Addresses of this form could not be told from others, or name no tileset.
    #[error("[serve] template {form}: {why}")]
    Template { form: String, why: String },
    #[error(transparent)]
    SigningKeys(#[from] SigningKeyError),
    #[error(
        "tileset \"{tileset}\" has a parameter {name}, which is a part of signed addresses: give it another name, or leave signing_keys_file out of [serve]"
    )]
    SignedName { tileset: String, name: &'static str },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("a thread died ({0}): please report this")]
    Died(String),
}

impl From<JoinError> for ServeError {
    fn from(error: JoinError) -> ServeError {
        ServeError::Died(error.to_string())
    }
}

impl ServeError {
    pub const fn kind(&self) -> ErrorKind {
        match self {
            ServeError::Tileset { kind, .. } => *kind,
            ServeError::Target(error) => error.kind(),
            ServeError::Listen { .. }
            | ServeError::NoPublicUrl { .. }
            | ServeError::Assets { .. }
            | ServeError::Header { .. }
            | ServeError::Live(_)
            | ServeError::Redis(_)
            | ServeError::Template { .. }
            | ServeError::SigningKeys(_)
            | ServeError::SignedName { .. }
            | ServeError::Token(_)
            | ServeError::NoMaxAge { .. }
            | ServeError::Immutable => ErrorKind::Usage,
            ServeError::Died(_) => ErrorKind::Failed,
        }
    }
}
