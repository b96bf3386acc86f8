//! The errors of servers and of the network, classified by what they mean for a run.

use super::{Action, BucketCause, BucketError, Scheme};

/// What a failed request means for a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// There is no such key.
    Missing,
    /// There is no such bucket.
    NoBucket,
    /// The request's condition (`If-Match`, `If-None-Match`) does not hold.
    Condition,
    /// The server does not support such requests.
    Unknown,
    /// The user may not do this.
    Denied,
    /// The server does not know the access key, or the signature is wrong.
    Keys,
    /// The access keys have expired.
    Expired,
    /// No credentials were found.
    NoKeys,
    /// The bucket is in another region: which, if the server says.
    Region(Option<String>),
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The clocks differ too much.
    Clock,
    /// The server asks to slow down.
    Busy,
    /// The server failed, or its answer broke off.
    Server,
    /// The object is larger than the program reads.
    TooLarge,
    Other,
}

#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) meaning: Meaning,
    pub(crate) cause: BucketCause,
}

impl Refusal {
    /// True if every other request of this run would fail, too.
    pub(crate) fn concerns_all(&self) -> bool {
        matches!(
            self.meaning,
            Meaning::NoBucket
                | Meaning::Keys
                | Meaning::Expired
                | Meaning::NoKeys
                | Meaning::Region(_)
                | Meaning::Clock
        )
    }

    /// True if the same request may succeed a moment later.
    pub(crate) const fn is_passing(&self) -> bool {
        matches!(self.meaning, Meaning::Timeout | Meaning::Server | Meaning::Busy | Meaning::Unreachable)
    }

    /// An error that is none of a server's or the network's.
    pub(crate) fn other(error: &dyn std::error::Error) -> Refusal {
        Refusal { meaning: Meaning::Other, cause: BucketCause(error.to_string()) }
    }

    /// From the code and message of one object in the answer to `DeleteObjects`.
    pub(crate) fn of_code(code: &str, message: &str) -> Refusal {
        Refusal {
            meaning: meaning(None, code).unwrap_or(Meaning::Other),
            cause: BucketCause(said(None, code, message)),
        }
    }
}

/// The meaning of an HTTP status and an error code; the code counts first (Amazon S3 API Reference, "Error responses").
pub(crate) fn meaning(status: Option<u16>, code: &str) -> Option<Meaning> {
    Some(match (code, status) {
        ("NoSuchBucket", _) => Meaning::NoBucket,
        ("NoSuchKey" | "NotFound", _) => Meaning::Missing,
        ("PreconditionFailed" | "ConditionalRequestConflict", _) => Meaning::Condition,
        ("NotImplemented", _) => Meaning::Unknown,
        // Also behind the status 200: a server that copies answers before it has done so.
        ("InternalError", _) => Meaning::Server,
        ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken", _) => Meaning::Keys,
        ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired", _) => Meaning::Expired,
        ("RequestTimeTooSkewed", _) => Meaning::Clock,
        (
            "PermanentRedirect"
            | "TemporaryRedirect"
            | "Redirect"
            | "AuthorizationHeaderMalformed"
            | "IllegalLocationConstraintException",
            _,
        ) => Meaning::Region(None),
        ("SlowDown" | "RequestLimitExceeded" | "Throttling" | "ThrottlingException" | "ServiceUnavailable", _) => {
            Meaning::Busy
        }
        ("RequestTimeout", _) => Meaning::Timeout,
        ("AccessDenied" | "AllAccessDisabled" | "AccountProblem", _) => Meaning::Denied,
        (_, Some(status)) => match status {
            301 | 307 => Meaning::Region(None),
            403 => Meaning::Denied,
            404 => Meaning::Missing,
            409 | 412 => Meaning::Condition,
            429 | 503 => Meaning::Busy,
            501 => Meaning::Unknown,
            500.. => Meaning::Server,
            _ => return None,
        },
        _ => return None,
    })
}

/// The region that a message names: "… the region 'us-east-1' is wrong; expecting 'eu-west-1'".
pub(crate) fn expected_region(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("expecting '")?;
    rest.split_once('\'').map(|(region, _)| region.to_owned())
}

/// Status, code and message on one line, as far as the server sent them.
pub(crate) fn said(status: Option<u16>, code: &str, message: &str) -> String {
    let mut text = status.map_or_else(String::new, |status| format!("HTTP {status}"));
    for part in [code, message.trim_end_matches('.')] {
        if !part.is_empty() {
            let between = if text.is_empty() {
                ""
            } else if part == code {
                " "
            } else {
                ": "
            };
            text = text + between + part;
        }
    }
    text
}

impl Scheme {
    /// What an administrator has to allow, as a clause.
    fn policy(self, action: Action, bucket: &str, prefix: &str) -> String {
        match self {
            Scheme::S3 => format!("a policy has to allow {}", action.policy(bucket, prefix)),
            Scheme::Azure => format!(
                "a role of this account has to allow Microsoft.Storage/storageAccounts/blobServices/containers/blobs/{} on the container \"{bucket}\"",
                match action {
                    Action::Put | Action::Abort => "write",
                    Action::Get | Action::List => "read",
                    Action::Delete => "delete",
                }
            ),
            Scheme::Google => format!(
                "a role of this account has to allow storage.objects.{} on the bucket \"{bucket}\"",
                match action {
                    Action::Put | Action::Abort => "create",
                    Action::Get => "get",
                    Action::List => "list",
                    Action::Delete => "delete",
                }
            ),
        }
    }

    /// Which settings say who asks, and what to do where none does.
    const fn keys_advice(self) -> (&'static str, &'static str) {
        match self {
            Scheme::S3 => (
                "check the access key, its secret and [s3] profile",
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a profile in [s3] profile, or give the machine a role",
            ),
            Scheme::Azure => (
                "check AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or what else says who asks",
                "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or give the machine an identity",
            ),
            Scheme::Google => (
                "check GOOGLE_APPLICATION_CREDENTIALS",
                "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account",
            ),
        }
    }
}

impl Action {
    /// The part of a policy that allows the action (Amazon S3, "Actions, resources, and condition keys").
    fn policy(self, bucket: &str, prefix: &str) -> String {
        let objects = |action: &str| format!("\"{action}\" on \"arn:aws:s3:::{bucket}/{prefix}*\"");
        match self {
            Action::Put => objects("s3:PutObject"),
            // Without the right to list, S3 answers 403 for a key that does not exist.
            Action::Get => format!("{} and {}", objects("s3:GetObject"), Action::List.policy(bucket, prefix)),
            Action::List => format!("\"s3:ListBucket\" on \"arn:aws:s3:::{bucket}\""),
            Action::Delete => objects("s3:DeleteObject"),
            Action::Abort => objects("s3:AbortMultipartUpload"),
        }
    }
}

/// The facts about the server and the bucket of a request that an error names.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext {
    pub(crate) scheme: Scheme,
    pub(crate) endpoint: String,
    pub(crate) region: String,
    pub(crate) bucket: String,
    pub(crate) prefix: String,
    pub(crate) attempts: u32,
}

impl RequestContext {
    pub(crate) fn error(&self, action: Action, key: &str, refusal: Refusal) -> BucketError {
        let RequestContext { scheme, endpoint, region, bucket, prefix, attempts } = self.clone();
        let place = format!("{}://{bucket}/{key}", scheme.name());
        let source = refusal.cause;
        match refusal.meaning {
            Meaning::Missing => BucketError::Missing { place },
            Meaning::NoBucket => {
                let (kind, setting) = scheme.bucket();
                BucketError::NoBucket { kind, bucket, endpoint, setting, source }
            }
            Meaning::Condition => BucketError::Changed { place },
            Meaning::Denied => {
                let policy = scheme.policy(action, &bucket, &prefix);
                BucketError::Denied { action, place, policy, source }
            }
            Meaning::Keys => BucketError::Keys { endpoint, place, next: scheme.keys_advice().0, source },
            Meaning::NoKeys => BucketError::NoKeys { place, next: scheme.keys_advice().1, source },
            Meaning::Expired => BucketError::Expired { place, source },
            Meaning::Region(right) => BucketError::Region { bucket, used: region, right, source },
            Meaning::Unreachable => {
                let setting = scheme.bucket().1;
                BucketError::Unreachable { endpoint, action, place, setting, source }
            }
            Meaning::Timeout => BucketError::Timeout { endpoint, action, place, source },
            Meaning::Clock => BucketError::Clock { endpoint, source },
            Meaning::Busy => BucketError::Busy { endpoint, action, place, attempts, source },
            Meaning::TooLarge => BucketError::TooLarge { place, source },
            Meaning::Unknown | Meaning::Server | Meaning::Other => {
                BucketError::Refused { endpoint, action, place, source }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_mean_what_the_documentation_says() {
        for (status, code, expected) in [
            (404, "NoSuchBucket", Some(Meaning::NoBucket)),
            (404, "", Some(Meaning::Missing)),
            (403, "", Some(Meaning::Denied)),
            (403, "RequestTimeTooSkewed", Some(Meaning::Clock)),
            (400, "ExpiredToken", Some(Meaning::Expired)),
            (301, "PermanentRedirect", Some(Meaning::Region(None))),
            (400, "AuthorizationHeaderMalformed", Some(Meaning::Region(None))),
            (409, "ConditionalRequestConflict", Some(Meaning::Condition)),
            (503, "SlowDown", Some(Meaning::Busy)),
            (500, "InternalError", Some(Meaning::Server)),
            (200, "InternalError", Some(Meaning::Server)),
            (400, "EntityTooSmall", None),
        ] {
            assert_eq!(meaning(Some(status), code), expected, "{status} {code}");
        }
        let message = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'";
        assert_eq!(expected_region(message).as_deref(), Some("eu-west-1"));
        assert_eq!(said(Some(403), "AccessDenied", "Access Denied."), "HTTP 403 AccessDenied: Access Denied");
        assert_eq!(said(None, "AccessDenied", ""), "AccessDenied");
    }
}
