//! How long caches may keep a tile, by its zoom. The headers are made when the settings are read, not at each request.

use std::time::Duration;

use http::HeaderValue;

use crate::serve::error::ServeError;
use crate::serve::http::answer::Freshness;
use crate::serve::known_changes::LogAge;
use crate::serve::options::{CdnHeader, ServeOptions};
use crate::target::CacheRule;
use crate::tile::Zoom;

/// `Cache-Control` at a zoom that no rule covers: caches may keep the tile, but must validate it each time.
const UNNAMED_ZOOM: &str = "no-cache";

/// The longest that caches may keep a stale tile, in seconds.
const MAX_STALE_SECONDS: u64 = 5;

/// The longest that browsers may keep a tile with a filter whose tags are purged, in seconds.
const MAX_FILTERED_SECONDS: u64 = 1;

/// How long caches may keep tiles, by zoom.
#[derive(Debug, Clone)]
pub(crate) struct TileFreshness {
    fresh: Vec<Freshness>,
    stale: Vec<Freshness>,
    /// While the change log cannot be read for long.
    outage: Vec<Freshness>,
    /// Of tiles with a filter that purges reach.
    filtered: Vec<Freshness>,
}

impl TileFreshness {
    /// The headers of each zoom.
    /// Fails if a value cannot be a header, or has no `max-age` from which to make an `s-maxage`.
    pub(crate) fn new(options: &ServeOptions) -> Result<TileFreshness, ServeError> {
        let of = |zoom: u8| of_zoom(options, Zoom::new(zoom).unwrap_or(Zoom::MAX));
        let fresh: Vec<Freshness> = (0..=Zoom::MAX.get()).map(of).collect::<Result<_, _>>()?;
        let stale = fresh.iter().map(|fresh| stale(fresh, MAX_STALE_SECONDS)).collect();
        let long = *options.section.outage_cdn_max_age;
        let outage = fresh.iter().map(|fresh| apart(fresh, MAX_STALE_SECONDS, long)).collect();
        let filtered = fresh.iter().map(|fresh| apart(fresh, MAX_FILTERED_SECONDS, Duration::MAX)).collect();
        Ok(TileFreshness { fresh, stale, outage, filtered })
    }

    /// The headers of a zoom, by the age of what is known of the change log: whether the tile is stale is known only up
    /// to the last look.
    pub(crate) fn at(&self, zoom: Zoom, age: LogAge) -> &Freshness {
        let by_zoom = match age {
            LogAge::Current => &self.fresh,
            LogAge::Old => &self.stale,
            LogAge::LongOutage => &self.outage,
        };
        &by_zoom[usize::from(zoom.get())]
    }

    /// The headers of a tile with a filter, which CDNs may keep like others, because they are told when it changes.
    pub(crate) fn filtered_at(&self, zoom: Zoom) -> &Freshness {
        &self.filtered[usize::from(zoom.get())]
    }

    pub(crate) fn stale_at(&self, zoom: Zoom) -> &Freshness {
        &self.stale[usize::from(zoom.get())]
    }

    /// The headers of a tile that caches may keep no longer than a stale one, and for at most `seconds`.
    pub(crate) fn stale_within(&self, zoom: Zoom, seconds: u64) -> Freshness {
        stale(&self.fresh[usize::from(zoom.get())], seconds.min(MAX_STALE_SECONDS))
    }

    /// True if a rule says that tiles never change (`immutable`).
    pub(crate) fn is_immutable(options: &ServeOptions) -> bool {
        let is = |rule: &CacheRule| directives(&rule.value).any(|(name, _)| name.eq_ignore_ascii_case("immutable"));
        options.cache_control.iter().chain(&options.cdn_cache_control).any(is)
    }
}

fn of_zoom(options: &ServeOptions, zoom: Zoom) -> Result<Freshness, ServeError> {
    let value = |rules: &[CacheRule]| {
        rules
            .iter()
            .find(|rule| rule.zooms.as_ref().is_none_or(|zooms| zooms.contains(zoom)))
            .map(|rule| rule.value.clone())
    };
    let mut cache_control = value(&options.cache_control).unwrap_or_else(|| UNNAMED_ZOOM.to_owned());
    let mut freshness = Freshness::of(HeaderValue::from_static(UNNAMED_ZOOM));
    if let Some(of_cdns) = value(&options.cdn_cache_control) {
        for way in &options.section.cdn_headers {
            match way {
                CdnHeader::CdnCacheControl => {
                    freshness.cdns = Some(header("CDN-Cache-Control", &of_cdns)?);
                }
                CdnHeader::SurrogateControl => {
                    freshness.surrogates = Some(header("Surrogate-Control", &of_cdns)?);
                }
                CdnHeader::SharedMaxAge => {
                    let age = max_age(&of_cdns).ok_or_else(|| ServeError::NoMaxAge { value: of_cdns.clone() })?;
                    cache_control.push_str(&format!(", s-maxage={age}"));
                }
            }
        }
    }
    freshness.browsers = header("Cache-Control", &cache_control)?;
    Ok(freshness)
}

/// The headers of a stale tile: no cache may keep it longer than `limit` seconds, because a fresh one is on its way.
fn stale(fresh: &Freshness, limit: u64) -> Freshness {
    let short = |value: &HeaderValue| {
        let text = value.to_str().ok()?;
        let has = |wanted: &str| directives(text).any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        if has("no-store") {
            return Some(value.clone());
        }
        let private = if has("private") { "private, " } else { "" };
        HeaderValue::from_str(&format!("{private}max-age={}", max_age(text)?.min(limit))).ok()
    };
    Freshness {
        // Without a `max-age`, caches must validate the tile each time.
        browsers: short(&fresh.browsers).unwrap_or_else(|| HeaderValue::from_static(UNNAMED_ZOOM)),
        cdns: fresh.cdns.as_ref().and_then(short),
        surrogates: fresh.surrogates.as_ref().and_then(short),
    }
}

/// The headers of a tile that browsers keep for at most `seconds_of_browsers`, and CDNs for at most `limit`. In a long
/// outage of the database, the questions of CDNs should not all come to this server; of a tile with a filter, only CDNs
/// hear when it changes.
fn apart(fresh: &Freshness, seconds_of_browsers: u64, limit: Duration) -> Freshness {
    let Freshness { browsers, cdns, surrogates } = stale(fresh, seconds_of_browsers);
    let age = |value: &HeaderValue, name: &str| Some(seconds(value.to_str().ok()?, name)?.min(limit.as_secs()));
    let own = |value: &HeaderValue| HeaderValue::from_str(&format!("max-age={}", age(value, "max-age")?)).ok();
    let is_for_all = |value: &str| {
        !directives(value).any(|(name, _)| ["private", "no-store"].iter().any(|no| name.eq_ignore_ascii_case(no)))
    };
    // Shared caches that no header addresses read the one for browsers.
    let shared = age(&fresh.browsers, "s-maxage").or_else(|| {
        let is_addressed = cdns.is_some() || surrogates.is_some();
        age(&fresh.browsers, "max-age").filter(|_| !is_addressed && fresh.browsers.to_str().is_ok_and(is_for_all))
    });
    let with_shared = |shared: u64| {
        let browsers = browsers.to_str().ok()?;
        HeaderValue::from_str(&format!("{browsers}, s-maxage={shared}")).ok()
    };
    Freshness {
        browsers: shared.and_then(with_shared).unwrap_or_else(|| browsers.clone()),
        cdns: fresh.cdns.as_ref().and_then(own),
        surrogates: fresh.surrogates.as_ref().and_then(own),
    }
}

/// The directives of a `Cache-Control` value, each with its argument (RFC 9111, section 5.2).
fn directives(value: &str) -> impl Iterator<Item = (&str, &str)> {
    value.split(',').map(|part| part.trim().split_once('=').unwrap_or((part.trim(), "")))
}

/// The seconds of the directive `max-age`.
fn max_age(value: &str) -> Option<u64> {
    seconds(value, "max-age")
}

fn seconds(value: &str, directive: &str) -> Option<u64> {
    directives(value).find(|(name, _)| name.eq_ignore_ascii_case(directive))?.1.trim_matches('"').parse().ok()
}

fn header(header: &'static str, value: &str) -> Result<HeaderValue, ServeError> {
    HeaderValue::from_str(value).map_err(|_invalid| ServeError::Header { header, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(cache: &[(&str, &str)], cdn: &[(&str, &str)], headers: &[CdnHeader]) -> ServeOptions {
        let rules = |rules: &[(&str, &str)]| {
            let rule = |(zooms, value): &(&str, &str)| CacheRule {
                zooms: (!zooms.is_empty()).then(|| zooms.parse().unwrap()),
                value: (*value).to_owned(),
            };
            rules.iter().map(rule).collect()
        };
        let mut preview = crate::config::preview_options("127.0.0.1:0".parse().unwrap(), None, None).unwrap();
        preview.section.cdn_headers = headers.to_vec();
        ServeOptions { cache_control: rules(cache), cdn_cache_control: rules(cdn), ..preview }
    }

    #[test]
    fn each_zoom_has_the_headers_of_the_first_rule_that_fits() {
        let by_zoom = options(
            &[("0-6", "max-age=600"), ("7-14", "max-age=60")],
            &[("0-6", "max-age=86400, stale-while-revalidate=60"), ("", "max-age=3600")],
            &[CdnHeader::CdnCacheControl, CdnHeader::SurrogateControl, CdnHeader::SharedMaxAge],
        );
        let freshness = TileFreshness::new(&by_zoom).unwrap();
        for (zoom, cache, cdn) in [
            (0, "max-age=600, s-maxage=86400", "max-age=86400, stale-while-revalidate=60"),
            (7, "max-age=60, s-maxage=3600", "max-age=3600"),
            (22, "no-cache, s-maxage=3600", "max-age=3600"),
        ] {
            let at = freshness.at(Zoom::new(zoom).unwrap(), LogAge::Current);
            assert_eq!(at.browsers, cache, "{zoom}");
            assert_eq!(at.cdns.as_ref().unwrap(), cdn, "{zoom}");
            assert_eq!(at.surrogates.as_ref().unwrap(), cdn, "{zoom}");
        }
        let at = freshness.stale_at(Zoom::new(7).unwrap());
        assert_eq!(
            (&at.browsers, at.cdns.as_ref().unwrap()),
            (&"max-age=5".parse().unwrap(), &"max-age=5".parse().unwrap())
        );
        assert_eq!(freshness.stale_at(Zoom::MAX).browsers, "no-cache");
        let alone = TileFreshness::new(&options(&[("", "max-age=5")], &[], &[CdnHeader::CdnCacheControl])).unwrap();
        assert_eq!(alone.at(Zoom::MAX, LogAge::Current).cdns, None);
        let without_age = options(&[], &[("", "no-store")], &[CdnHeader::SharedMaxAge]);
        assert!(matches!(TileFreshness::new(&without_age), Err(ServeError::NoMaxAge { .. })));
    }

    #[test]
    fn while_the_log_is_not_read_nobody_keeps_tiles_for_long_and_in_a_long_outage_cdns_keep_them_longer() {
        let all = [CdnHeader::CdnCacheControl, CdnHeader::SurrogateControl, CdnHeader::SharedMaxAge];
        for (cache, cdn, headers, old, long) in [
            ("max-age=3600", "max-age=86400", &all[..2], ["max-age=5", "max-age=5"], ["max-age=5", "max-age=300"]),
            ("max-age=3600", "max-age=60", &all[..1], ["max-age=5", "max-age=5"], ["max-age=5", "max-age=60"]),
            ("max-age=3600", "max-age=86400", &all[2..], ["max-age=5", ""], ["max-age=5, s-maxage=300", ""]),
            ("public, max-age=60", "", &all[..1], ["max-age=5", ""], ["max-age=5, s-maxage=60", ""]),
            ("private, max-age=60", "", &all[..1], ["private, max-age=5", ""], ["private, max-age=5", ""]),
            ("no-store", "", &all[..1], ["no-store", ""], ["no-store", ""]),
            ("no-cache", "max-age=86400", &all[..1], ["no-cache", "max-age=5"], ["no-cache", "max-age=300"]),
        ] {
            let cdn: &[_] = if cdn.is_empty() { &[] } else { &[("", cdn)] };
            let freshness = TileFreshness::new(&options(&[("", cache)], cdn, headers)).unwrap();
            for (age, expected) in [(LogAge::Old, old), (LogAge::LongOutage, long)] {
                let at = freshness.at(Zoom::new(7).unwrap(), age);
                let cdns = at.cdns.as_ref().or(at.surrogates.as_ref()).map_or("", |value| value.to_str().unwrap());
                assert_eq!([at.browsers.to_str().unwrap(), cdns], expected, "{cache} {cdn:?} {age:?}");
            }
        }
    }

    #[test]
    fn of_a_tile_with_a_filter_browsers_ask_each_second_and_cdns_keep_it_as_others() {
        let all = [CdnHeader::CdnCacheControl, CdnHeader::SurrogateControl, CdnHeader::SharedMaxAge];
        for (cache, cdn, headers, expected) in [
            ("public, max-age=60", "max-age=86400", &all[..1], ["max-age=1", "max-age=86400"]),
            ("public, max-age=60", "max-age=86400", &all[1..2], ["max-age=1", "max-age=86400"]),
            ("public, max-age=60", "max-age=86400", &all[2..], ["max-age=1, s-maxage=86400", ""]),
            ("public, max-age=60", "", &all[..1], ["max-age=1, s-maxage=60", ""]),
            ("private, max-age=60", "", &all[..1], ["private, max-age=1", ""]),
            ("no-store", "", &all[..1], ["no-store", ""]),
            ("no-cache", "", &all[..1], ["no-cache", ""]),
        ] {
            let cdn: &[_] = if cdn.is_empty() { &[] } else { &[("", cdn)] };
            let freshness = TileFreshness::new(&options(&[("", cache)], cdn, headers)).unwrap();
            let at = freshness.filtered_at(Zoom::new(7).unwrap());
            let cdns = at.cdns.as_ref().or(at.surrogates.as_ref()).map_or("", |value| value.to_str().unwrap());
            assert_eq!([at.browsers.to_str().unwrap(), cdns], expected, "{cache} {cdn:?}");
        }
    }

    #[test]
    fn nobody_keeps_a_signed_tile_longer_than_its_address_is_answered() {
        let all = [CdnHeader::CdnCacheControl, CdnHeader::SurrogateControl, CdnHeader::SharedMaxAge];
        let long = options(&[("0", "public, max-age=600, stale-if-error=60")], &[("", "max-age=86400")], &all);
        let freshness = TileFreshness::new(&long).unwrap();
        for (left, expected) in [(0, "max-age=0"), (3, "max-age=3"), (5, "max-age=5"), (86_400, "max-age=5")] {
            let Freshness { browsers, cdns, surrogates } = freshness.stale_within(Zoom::new(0).unwrap(), left);
            assert_eq!([Some(browsers), cdns, surrogates], [(); 3].map(|()| Some(HeaderValue::from_static(expected))));
            assert_eq!(freshness.stale_within(Zoom::MAX, left).browsers, "no-cache");
        }
    }

    #[test]
    fn what_never_changes_is_known_by_its_directive() {
        for (value, expected) in [
            ("public, max-age=60", false),
            ("max-age=31536000, immutable", true),
            ("IMMUTABLE", true),
            ("x-immutable=1", false),
        ] {
            assert_eq!(TileFreshness::is_immutable(&options(&[("0", value)], &[], &[])), expected, "{value}");
        }
    }
}
