//! CDNs with an API of their own. The code was checked against the documented APIs, not with live accounts.

mod akamai;
mod bunny;
mod cloudflare;
#[cfg(feature = "s3")]
mod cloudfront;
mod edgegrid;
mod fastly;

pub(super) use akamai::Akamai;
pub(super) use bunny::Bunny;
pub(super) use cloudflare::Cloudflare;
#[cfg(feature = "s3")]
pub(super) use cloudfront::CloudFront;
pub use edgegrid::EdgeGridSource;
pub(super) use fastly::Fastly;
