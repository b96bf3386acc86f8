//! Akamai's EdgeGrid signatures, `EG1-HMAC-SHA256` (Akamai TechDocs, "Authenticate with EdgeGrid").

use std::path::PathBuf;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::super::ProviderError;
use super::super::secret::{PurgeSecret, SecretSource};

/// The most bytes of a POST's body that are signed.
const MAX_SIGNED_BODY: usize = 131_072;

/// The place from which Akamai's credentials are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EdgeGridSource {
    /// A file `.edgerc`, and a section of it.
    File {
        /// The file.
        path: PathBuf,
        /// The section.
        section: String,
    },
    /// The variables `AKAMAI_HOST`, `AKAMAI_CLIENT_TOKEN`, `AKAMAI_CLIENT_SECRET` and `AKAMAI_ACCESS_TOKEN`.
    Variables,
}

/// The credentials of an API client.
#[derive(Debug)]
pub(super) struct EdgeGridKeys {
    host: String,
    client_token: PurgeSecret,
    client_secret: PurgeSecret,
    access_token: PurgeSecret,
}

/// What makes a signature unique.
#[derive(Debug)]
pub(super) struct SignedMoment {
    /// `yyyyMMddTHH:mm:ss+0000`.
    timestamp: String,
    nonce: String,
}

impl SignedMoment {
    pub(super) fn now() -> SignedMoment {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let timestamp = time.replace('-', "").replace('Z', "+0000");
        let nonce = format!("{:032x}", fastrand::u128(..));
        SignedMoment { timestamp, nonce }
    }
}

impl EdgeGridKeys {
    /// Reads the credentials.
    pub(super) fn read(source: &EdgeGridSource) -> Result<EdgeGridKeys, ProviderError> {
        match source {
            EdgeGridSource::Variables => {
                let secret = |name: &str| SecretSource::Variable(format!("AKAMAI_{name}")).read();
                Ok(EdgeGridKeys {
                    host: host(secret("HOST")?.reveal()),
                    client_token: secret("CLIENT_TOKEN")?,
                    client_secret: secret("CLIENT_SECRET")?,
                    access_token: secret("ACCESS_TOKEN")?,
                })
            }
            EdgeGridSource::File { path, section } => {
                let place = format!("[{section}] of {}", path.display());
                let wrong = |what: String| ProviderError::EdgeRc { place: place.clone(), what };
                let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
                let value =
                    |key: &str| edgerc_value(&text, section, key).ok_or_else(|| wrong(format!("it has no {key} = …")));
                Ok(EdgeGridKeys {
                    host: host(value("host")?),
                    client_token: PurgeSecret::of(value("client_token")?),
                    client_secret: PurgeSecret::of(value("client_secret")?),
                    access_token: PurgeSecret::of(value("access_token")?),
                })
            }
        }
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn secrets(&self) -> [&PurgeSecret; 3] {
        [&self.client_token, &self.client_secret, &self.access_token]
    }

    /// The value of the `Authorization` header.
    pub(super) fn authorization(&self, method: &str, path: &str, body: &str, moment: &SignedMoment) -> String {
        let (client, access) = (self.client_token.reveal(), self.access_token.reveal());
        let SignedMoment { timestamp, nonce } = moment;
        let unsigned =
            format!("EG1-HMAC-SHA256 client_token={client};access_token={access};timestamp={timestamp};nonce={nonce};");
        let signed_body = &body.as_bytes()[..body.len().min(MAX_SIGNED_BODY)];
        let content = if method == "POST" && !body.is_empty() {
            STANDARD.encode(Sha256::digest(signed_body))
        } else {
            String::new()
        };
        // No further headers are signed.
        let data = format!("{method}\thttps\t{}\t{path}\t\t{content}\t{unsigned}", self.host);
        let key = hmac(self.client_secret.reveal().as_bytes(), timestamp);
        format!("{unsigned}signature={}", hmac(key.as_bytes(), &data))
    }
}

/// A HMAC with SHA-256 in base64.
fn hmac(key: &[u8], text: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return String::new() };
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

/// The host of a URL, or of a host name.
fn host(text: &str) -> String {
    text.trim_start_matches("https://").trim_end_matches('/').to_ascii_lowercase()
}

/// The value of a key in a section of an `.edgerc` file.
fn edgerc_value<'a>(text: &'a str, section: &str, key: &str) -> Option<&'a str> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| *line != format!("[{section}]")).skip(1);
    let of_section = lines.by_ref().take_while(|line| !line.starts_with('['));
    of_section
        .filter_map(|line| line.split_once('='))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of Akamai's published test cases.
    fn keys() -> EdgeGridKeys {
        EdgeGridKeys {
            host: host("https://akaa-baseurl-xxxxxxxxxxx-xxxxxxxxxxxxx.luna.akamaiapis.net/"),
            client_token: PurgeSecret::of("akab-client-token-xxx-xxxxxxxxxxxxxxxx"),
            client_secret: PurgeSecret::of("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx="),
            access_token: PurgeSecret::of("akab-access-token-xxx-xxxxxxxxxxxxxxxx"),
        }
    }

    #[test]
    fn signatures_are_those_of_akamais_published_cases() {
        let moment = SignedMoment {
            timestamp: "20140321T19:34:21+0000".to_owned(),
            nonce: "nonce-xx-xxxx-xxxx-xxxx-xxxxxxxxxxxx".to_owned(),
        };
        for (name, method, path, body, signature) in [
            ("simple GET", "GET", "/", "", "tL+y4hxyHxgWVD30X3pWnGKHcPzmrIF+LThiAOhMxYU="),
            (
                "GET with querystring",
                "GET",
                "/testapi/v1/t1?p1=1&p2=2",
                "",
                "hKDH1UlnQySSHjvIcZpDMbQHihTQ0XyVAKZaApabdeA=",
            ),
            (
                "POST inside limit",
                "POST",
                "/testapi/v1/t3",
                "datadatadatadatadatadatadatadata",
                "hXm4iCxtpN22m4cbZb4lVLW5rhX8Ca82vCFqXzSTPe4=",
            ),
            ("POST empty body", "POST", "/testapi/v1/t6", "", "1gEDxeQGD5GovIkJJGcBaKnZ+VaPtrc4qBUHixjsPCQ="),
            (
                "PUT test",
                "PUT",
                "/testapi/v1/t6",
                "PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP",
                "GNBWEYSEWOLtu+7dD52da2C39aX/Jchpon3K/AmBqBU=",
            ),
        ] {
            let authorization = keys().authorization(method, path, body, &moment);
            assert_eq!(
                authorization,
                format!(
                    "EG1-HMAC-SHA256 client_token=akab-client-token-xxx-xxxxxxxxxxxxxxxx;access_token=akab-access-token-xxx-xxxxxxxxxxxxxxxx;timestamp=20140321T19:34:21+0000;nonce=nonce-xx-xxxx-xxxx-xxxx-xxxxxxxxxxxx;signature={signature}"
                ),
                "{name}"
            );
        }
    }

    #[test]
    fn a_moment_is_written_as_akamai_reads_it() {
        let moment = SignedMoment::now();
        assert_eq!(moment.timestamp.len(), "20140321T19:34:21+0000".len());
        assert!(moment.timestamp.ends_with("+0000") && moment.timestamp.as_bytes()[8] == b'T', "{moment:?}");
        assert_ne!(SignedMoment::now().nonce, moment.nonce);
    }

    #[test]
    fn an_edgerc_file_has_sections() {
        let text = "[default]\nhost = other.net\n\n[tiles]\n host=akaa.luna.akamaiapis.net/ \nclient_token = a=b\nclient_secret =\n[more]\naccess_token = c\n";
        assert_eq!(edgerc_value(text, "tiles", "host"), Some("akaa.luna.akamaiapis.net/"));
        assert_eq!(edgerc_value(text, "tiles", "client_token"), Some("a=b"));
        assert_eq!(edgerc_value(text, "tiles", "client_secret"), None);
        assert_eq!(edgerc_value(text, "tiles", "access_token"), None);
    }
}
