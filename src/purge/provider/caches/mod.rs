//! Caches that users run themselves, and a program that users provide.

mod command;
mod nginx;
mod varnish;

pub(super) use command::UserProgram;
pub(super) use nginx::Nginx;
pub(super) use varnish::Varnish;

use super::super::pace::Rate;
use super::ProviderError;
use super::secret::{PurgeSecret, SecretSource};

/// What a cache asks of who purges: `Authorization: Bearer TOKEN` (RFC 6750, section 2.1), if there is a token.
struct CacheToken(Option<CacheTokenParts>);

struct CacheTokenParts {
    token: PurgeSecret,
    header: String,
}

impl CacheToken {
    fn read(source: Option<&SecretSource>) -> Result<CacheToken, ProviderError> {
        let token = source.map(SecretSource::read).transpose()?;
        Ok(CacheToken(token.map(|token| CacheTokenParts { header: format!("Bearer {}", token.reveal()), token })))
    }

    /// The header of a request.
    fn header(&self) -> Option<(&'static str, &str)> {
        self.0.as_ref().map(|parts| ("authorization", parts.header.as_str()))
    }

    /// What no error may show.
    fn secrets(&self) -> Vec<&PurgeSecret> {
        self.0.iter().map(|parts| &parts.token).collect()
    }
}

/// The rate of providers that have no limit.
const OWN_RATE: Rate = Rate { burst: 1_000_000.0, per_second: 1_000_000.0 };
