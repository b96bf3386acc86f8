//! CDNs with an API of their own. The code was checked against the documented APIs, not with live accounts.

mod cloudflare;
#[cfg(feature = "s3")]
mod cloudfront;
mod fastly;

pub(super) use cloudflare::Cloudflare;
#[cfg(feature = "s3")]
pub(super) use cloudfront::CloudFront;
pub(super) use fastly::Fastly;
