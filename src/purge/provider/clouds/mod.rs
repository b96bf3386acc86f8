//! CDNs that are asked over an API of their own. Checked against the documented API, not a live account.

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
