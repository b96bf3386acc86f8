//! The requests to Amazon CloudFront: `CreateInvalidation` (API version 2020-05-31), signed with Signature Version 4.

use std::time::SystemTime;

use aws_config::BehaviorVersion;
use aws_credential_types::provider::{ProvideCredentials as _, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use aws_smithy_http_client::tls::Provider as TlsProvider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, StatusCode, header};
use http_body_util::Full;

use super::http::{HttpAnswer, HttpClient, RequestBody, USER_AGENT};
use super::{BatchLimits, CloudFrontOptions, ItemKind, Provider, ProviderError, ProviderKind, PurgeBatch, SendError};
use crate::cdn::pace::Rate;

/// The URL of the API (AWS General Reference, "Amazon CloudFront endpoints").
const ENDPOINT: &str = "https://cloudfront.amazonaws.com";

/// The region that requests are signed for: the service is global.
const REGION: &str = "us-east-1";

/// The most wildcards in a request. CloudFront allows 15 wildcards in progress; two are left to other users of the
/// distribution.
const MAX_WILDCARDS: usize = 13;

pub(crate) struct CloudFront {
    options: CloudFrontOptions,
    http: HttpClient,
    credentials: Option<SharedCredentialsProvider>,
}

impl CloudFront {
    /// Finds a source of credentials as the AWS SDK does, without a request to CloudFront.
    pub(crate) async fn new(options: CloudFrontOptions, http: HttpClient) -> Result<CloudFront, ProviderError> {
        let tls =
            aws_smithy_http_client::Builder::new().tls_provider(TlsProvider::Rustls(CryptoMode::Ring)).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(tls);
        if let Some(profile) = &options.profile {
            loader = loader.profile_name(profile);
        }
        let credentials = loader.load().await.credentials_provider();
        Ok(CloudFront { options, http, credentials })
    }

    async fn signed(&self, batch: &PurgeBatch) -> Result<Request<RequestBody>, SendError> {
        let no_keys = |what: String| SendError::refused(format!("no AWS credentials: {what}"));
        let Some(provider) = &self.credentials else { return Err(no_keys("none are configured".to_owned())) };
        let credentials = provider.provide_credentials().await.map_err(|error| no_keys(error.to_string()))?;
        let body = document(batch);
        let endpoint = self.options.endpoint.as_deref().unwrap_or(ENDPOINT).trim_end_matches('/');
        let url = format!("{endpoint}/2020-05-31/distribution/{}/invalidation", self.options.distribution);
        let odd = |what: String| SendError::refused(format!("the request to {url} cannot be signed: {what}"));
        let identity = credentials.into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name("cloudfront")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| odd(error.to_string()))?
            .into();
        let headers = [("content-type", "text/xml")];
        let signable = SignableRequest::new("POST", &url, headers.into_iter(), SignableBody::Bytes(body.as_bytes()))
            .map_err(|error| odd(error.to_string()))?;
        let (instructions, _) = sign(signable, &parameters).map_err(|error| odd(error.to_string()))?.into_parts();
        let mut request = Request::post(&url)
            .header(header::CONTENT_TYPE, "text/xml")
            .header(header::USER_AGENT, USER_AGENT)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| odd(error.to_string()))?;
        instructions.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

/// The body of the request: an `InvalidationBatch`.
fn document(batch: &PurgeBatch) -> String {
    let path = |name: &String| match batch.kind {
        ItemKind::Tag => format!("#{name}"),
        ItemKind::Url => name.clone(),
        ItemKind::Prefix | ItemKind::Everything => format!("{name}*"),
    };
    let paths: String = batch.names.iter().map(|name| format!("<Path>{}</Path>", escaped(&path(name)))).collect();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><InvalidationBatch xmlns=\"http://cloudfront.amazonaws.com/doc/2020-05-31/\"><Paths><Quantity>{}</Quantity><Items>{paths}</Items></Paths><CallerReference>{}</CallerReference></InvalidationBatch>",
        batch.names.len(),
        escaped(&batch.reference)
    )
}

/// Escapes a text for an XML element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Classifies an answer. "Too many invalidations in progress" has status 400, but a retry later can succeed.
fn judge(answer: &HttpAnswer) -> Result<(), SendError> {
    let code = answer.text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    let passes = matches!(code, Some("TooManyInvalidationsInProgress" | "Throttling" | "ThrottlingException"));
    if answer.status == StatusCode::BAD_REQUEST && passes {
        return Err(SendError::Later { what: answer.shown(None), retry_after: answer.retry_after });
    }
    answer.judged(None)
}

impl Provider for CloudFront {
    fn limits(&self, kind: ItemKind) -> BatchLimits {
        let max_items = match kind {
            ItemKind::Tag | ItemKind::Url => self.options.facts().max_items,
            ItemKind::Prefix | ItemKind::Everything => MAX_WILDCARDS,
        };
        BatchLimits {
            max_items,
            max_bytes: 1 << 20,
            bytes_around: "<Path>*</Path>".len(),
            // No limit is documented; more than one request in two seconds was observed to be refused.
            requests: Rate { burst: 2.0, per_second: 0.5 },
            items: Rate { burst: 3_000.0, per_second: 100.0 },
        }
    }

    fn send<'a>(&'a self, batch: &'a PurgeBatch) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async {
            let request = self.signed(batch).await?;
            judge(&self.http.send(request).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_paths_and_prefixes_are_written_as_the_api_has_them() {
        let batch = |kind, names: &[&str]| PurgeBatch {
            kind,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            reference: "r1".to_owned(),
        };
        let items = |kind, names: &[&str]| {
            let text = document(&batch(kind, names));
            text.split_once("<Paths>").unwrap().1.split_once("</Paths>").unwrap().0.to_owned()
        };
        assert_eq!(
            items(ItemKind::Url, &["/a/5/1/2.pbf", "/a&b/<"]),
            "<Quantity>2</Quantity><Items><Path>/a/5/1/2.pbf</Path><Path>/a&amp;b/&lt;</Path></Items>"
        );
        assert!(items(ItemKind::Prefix, &["/a/5/"]).contains("<Path>/a/5/*</Path>"));
        assert!(items(ItemKind::Tag, &["n-0-0-0"]).contains("<Path>#n-0-0-0</Path>"));
        assert!(
            document(&batch(ItemKind::Tag, &["n"]))
                .ends_with("<CallerReference>r1</CallerReference></InvalidationBatch>")
        );
    }

    #[test]
    fn too_many_invalidations_pass_and_other_400s_stay() {
        let answer = |status: u16, code: &str| HttpAnswer {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: None,
            text: format!("<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>"),
        };
        assert!(judge(&answer(201, "")).is_ok());
        for (status, code) in
            [(400, "TooManyInvalidationsInProgress"), (400, "Throttling"), (503, "ServiceUnavailable")]
        {
            assert!(matches!(judge(&answer(status, code)), Err(SendError::Later { .. })), "{code}");
        }
        for (status, code) in
            [(400, "InvalidArgument"), (403, "AccessDenied"), (404, "NoSuchDistribution"), (413, "BatchTooLarge")]
        {
            assert!(matches!(judge(&answer(status, code)), Err(SendError::Refused { .. })), "{code}");
        }
    }
}
