//! Errors: why a provider cannot be asked, or does not accept a request.

use std::time::Duration;

use crate::error::ErrorKind;

/// Why a provider cannot be asked at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// A secret is missing.
    #[error("no secret can be read from {place}: {what}")]
    Secret {
        /// The file or the variable.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// This program was built without the code that signs requests to the provider.
    #[error(
        "{provider} cannot be asked: this oar-tiles was built without S3. Use a released program, or build one with --features s3"
    )]
    NotBuilt {
        /// The provider's name in the configuration.
        provider: &'static str,
    },
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {what}")]
    Tls {
        /// The cause.
        what: String,
    },
}

impl ProviderError {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        ErrorKind::Usage
    }
}

/// Why a provider did not accept a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The provider may accept the same request later.
    #[error("{what}")]
    Later {
        /// The text of its answer, or what went wrong; without secrets.
        what: String,
        /// How long the provider asks to wait.
        retry_after: Option<Duration>,
    },
    /// The provider refuses the same request until somebody changes something: a key, a right, the configuration.
    #[error("{what}")]
    Refused {
        /// The text of its answer, or what went wrong; without secrets.
        what: String,
    },
}

impl SendError {
    /// A temporary refusal.
    #[must_use]
    pub const fn later(what: String) -> SendError {
        SendError::Later { what, retry_after: None }
    }

    /// A permanent refusal.
    #[must_use]
    pub const fn refused(what: String) -> SendError {
        SendError::Refused { what }
    }
}
