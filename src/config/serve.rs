//! The section `[serve]`, checked.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::error::ConfigError;
use super::settings::Check;
use super::values::ConfigValues;
use crate::serve::{
    AddressRange, EmptyStatus, ListenAddress, LiveOptions, MIN_TOKEN_BYTES, PageOrigin, RedisUrl, RedisUrlError,
    RefreshMode, SETTLE, ServeOptions, ServeSection, SharedSecret, TileAddress, TileHeaders, WorkerShares,
    WorkerSharesError, WriteBackLimits, WriterMode, WriterOptions,
};
use crate::setting::TimeSpan;
use crate::target::CacheRule;
use crate::tile::{TileTextNames, Zoom};

/// The options of a preview; the configuration's section `[serve]` has no effect on it.
pub(crate) fn preview_options(
    listen: ListenAddress,
    assets: Option<PathBuf>,
    basemap: Option<String>,
) -> Result<ServeOptions, ConfigError> {
    Ok(ServeOptions::of_preview(ConfigValues::defaults()?.together()?.serve, listen, assets, basemap))
}

impl Check<'_> {
    pub(crate) fn serve(&self, given: &ServeSection, names: TileTextNames) -> Result<ServeOptions, ConfigError> {
        if *given.drain > MAX_DRAIN {
            return Err(self.wrong("serve.drain", format!("{} must not be more than 1h", given.drain)));
        }
        for (key, count) in [
            ("serve.max_connections", given.max_connections),
            ("serve.max_connections_of_address", given.max_connections_of_address),
        ] {
            self.within(key, count, 1..=100_000)?;
        }
        self.within_times("serve.signed_for", given.signed_for, SIGNED_TIMES)?;
        if given.preview && given.signing_keys_file.is_some() {
            let what = "is on beside signing_keys_file, and the page has no signature: run oar-tiles preview for the map, or leave one of them out".to_owned();
            return Err(self.wrong("serve.preview", what));
        }
        self.within("serve.parameter_keys", given.parameter_keys, 1..=1_000_000)?;
        Ok(ServeOptions {
            listen: self.address("serve.listen", &given.listen)?,
            admin: given.admin.as_deref().map(|text| self.address("serve.admin", text)).transpose()?,
            public_url: given.public_url.as_deref().map(|url| self.own_url(url)).transpose()?,
            base_path: self.base_path(&given.base_path)?,
            template: given.template.as_deref().map(|text| self.template(text)).transpose()?,
            is_private: false,
            allowed_origins: given.allowed_origins.as_deref().map(|texts| self.origins(texts)).transpose()?,
            cache_control: self.cache_rules("serve.cache_control", given.cache_control.as_ref())?,
            cdn_cache_control: self.cache_rules("serve.cdn_cache_control", given.cdn_cache_control.as_ref())?,
            tile_headers: TileHeaders { headers: self.tile_headers(given)?, names },
            settle: SETTLE,
            empty_status: self.empty_status(given.empty_status)?,
            cache_bytes: self.within("serve.cache_mb", given.cache_mb, 0..=1 << 20)? << 20,
            unread_bytes: self.within("serve.unread_mb", given.unread_mb, 1..=1 << 20)? << 20,
            lists_tiles: true,
            trusted_proxies: self.ranges(&given.trusted_proxies)?,
            redis: self.redis(given)?,
            redis_secret: self.redis_secret(given)?,
            shares: self.shares(given)?,
            live: self.live(given)?,
            writer: self.writer(given)?,
            section: Box::new(given.clone()),
        })
    }

    /// How the workers are shared between live requests and background work.
    fn shares(&self, given: &ServeSection) -> Result<WorkerShares, ConfigError> {
        let workers = self.workers("serve.workers", given.workers)?;
        WorkerShares::new(workers, given.live_reserved, given.background_guaranteed).map_err(|error| {
            let key = match error {
                WorkerSharesError::ReservesAll { .. } => "serve.live_reserved",
                WorkerSharesError::GuaranteesMore { .. } => "serve.background_guaranteed",
            };
            self.wrong(key, error.to_string())
        })
    }

    fn live(&self, given: &ServeSection) -> Result<Option<LiveOptions>, ConfigError> {
        let options = LiveOptions {
            queue: self.within("serve.live_queue", given.live_queue, 0..=100_000)?,
            timeout: self.within_times("serve.live_timeout", given.live_timeout, LIVE_TIMEOUTS)?,
            ttl: *given.live_ttl,
            answer_within: given.answer_within.map(Duration::from),
            expires: self.expires(given)?,
            refresh_patience: match given.refresh {
                RefreshMode::Background => None,
                RefreshMode::Patient => Some(REFRESH_PATIENCE),
            },
            neighbours: given.neighbours,
            explain_after: given.explain_after.map(Duration::from),
        };
        Ok(given.live.then_some(options))
    }

    fn writer(&self, given: &ServeSection) -> Result<Option<WriterOptions>, ConfigError> {
        let lease = self.within_times("serve.writer_lease", given.writer_lease, WRITER_LEASES)?;
        let limits = WriteBackLimits {
            tiles_per_second: self.within("serve.write_back_rate", given.write_back_rate, 1..=10_000)?,
            bytes_per_day: self.within("serve.write_back_mb", given.write_back_mb, 1..=1 << 20)? << 20,
        };
        let write_back = given.write_back.then_some(limits);
        Ok(match given.writer {
            WriterMode::Never => None,
            WriterMode::Always => Some(WriterOptions { stands_by: false, lease, write_back }),
            WriterMode::Auto => Some(WriterOptions { stands_by: true, lease, write_back }),
        })
    }

    /// The age at which stored tiles expire, by zoom.
    fn expires(&self, given: &ServeSection) -> Result<Vec<Option<Duration>>, ConfigError> {
        let rules = self.cache_rules("serve.expires", given.expires.as_ref())?;
        let parsed = |rule: &CacheRule| {
            humantime::parse_duration(&rule.value).map_err(|error| {
                self.wrong("serve.expires", format!("{:?} is no duration ({error}): write 10m or 1h", rule.value))
            })
        };
        let ages = rules.iter().map(parsed).collect::<Result<Vec<Duration>, _>>()?;
        let of = |zoom: u8| {
            let covers = |rule: &CacheRule| {
                rule.zooms.as_ref().is_none_or(|zooms| Zoom::new(zoom).is_some_and(|zoom| zooms.contains(zoom)))
            };
            rules.iter().zip(&ages).find(|(rule, _)| covers(rule)).map(|(_, age)| *age)
        };
        Ok((0..=Zoom::MAX.get()).map(of).collect())
    }

    /// The Redis in which tiles are shared. The URL comes from the configuration, or from a file, so that the
    /// configuration need not contain the password.
    fn redis(&self, given: &ServeSection) -> Result<Option<RedisUrl>, ConfigError> {
        let (key, text) = match (&given.redis_url, &given.redis_url_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => {
                let what = "is given beside redis_url_file: one of them is enough".to_owned();
                return Err(self.wrong("serve.redis_url", what));
            }
            (Some(url), None) => ("serve.redis_url", url.0.clone()),
            (None, Some(path)) => ("serve.redis_url_file", self.text_of("serve.redis_url_file", path)?),
        };
        text.parse().map(Some).map_err(|error: RedisUrlError| self.wrong(key, error.to_string()))
    }

    /// The key with which tiles in Redis are signed, from a file.
    fn redis_secret(&self, given: &ServeSection) -> Result<Option<SharedSecret>, ConfigError> {
        let Some(path) = &given.redis_secret_file else { return Ok(None) };
        let wrong = |what: String| self.wrong("serve.redis_secret_file", format!("{} {what}", path.display()));
        let text = std::fs::read(path).map_err(|error| wrong(format!("cannot be read ({error})")))?;
        let secret = text.trim_ascii();
        if secret.len() < MIN_TOKEN_BYTES {
            let bytes = secret.len();
            return Err(wrong(format!(
                "has {bytes} bytes, and needs at least {MIN_TOKEN_BYTES}: write a secret such as openssl rand -hex 32 makes"
            )));
        }
        Ok(SharedSecret::new(secret))
    }

    fn address(&self, key: &str, text: &str) -> Result<ListenAddress, ConfigError> {
        text.parse().map_err(|error: crate::serve::ListenAddressError| self.wrong(key, error.to_string()))
    }

    /// The address under which clients find the server.
    fn own_url(&self, url: &str) -> Result<String, ConfigError> {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let host = rest.map_or("", |rest| rest.split('/').next().unwrap_or_default());
        if host.is_empty() || host.contains('@') || rest.is_some_and(|rest| rest.contains(Self::is_odd_in_address)) {
            let what =
                format!("{url:?} is no address of a server: write https://host/path, under which clients find it");
            return Err(self.wrong("serve.public_url", what));
        }
        Ok(url.trim_end_matches('/').to_owned())
    }

    /// The path below which everything is served: empty, or with a leading slash and without a trailing one.
    fn base_path(&self, text: &str) -> Result<String, ConfigError> {
        let path = text.trim_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~');
        let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.chars().all(is_plain);
        match path {
            "" => Ok(String::new()),
            path if path.split('/').all(is_name) => Ok(format!("/{path}")),
            _ => {
                let what = format!(
                    "{text:?} is no path: write names of letters, digits and -._~ with / between them, such as /maps/facilities"
                );
                Err(self.wrong("serve.base_path", what))
            }
        }
    }

    /// The form of further addresses.
    fn template(&self, text: &str) -> Result<TileAddress, ConfigError> {
        TileAddress::new(text).map_err(|error| self.wrong("serve.template", error.to_string()))
    }

    fn empty_status(&self, status: u16) -> Result<EmptyStatus, ConfigError> {
        EmptyStatus::of(status)
            .ok_or_else(|| self.wrong("serve.empty_status", format!("{status} must be 204, 200 or 404")))
    }

    fn origins(&self, texts: &[String]) -> Result<Vec<PageOrigin>, ConfigError> {
        let origin = |text: &String| {
            text.parse()
                .map_err(|error: crate::serve::PageOriginError| self.wrong("serve.allowed_origins", error.to_string()))
        };
        texts.iter().map(origin).collect()
    }

    fn ranges(&self, texts: &[String]) -> Result<Vec<AddressRange>, ConfigError> {
        let range = |text: &String| {
            text.parse().map_err(|error: crate::serve::AddressRangeError| {
                self.wrong("serve.trusted_proxies", error.to_string())
            })
        };
        texts.iter().map(range).collect()
    }
}

/// How long a client may have to wait for a tile that is rendered for it.
const LIVE_TIMEOUTS: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_millis(100))..=TimeSpan(Duration::from_secs(600));

/// The writer's lease. With a shorter lease, a busy machine loses it; with a longer one, a standby waits for a long
/// time.
const WRITER_LEASES: RangeInclusive<TimeSpan> = TimeSpan(Duration::from_secs(1))..=TimeSpan(Duration::from_secs(600));

/// How long a client waits for the fresh tile with `refresh = "patient"`.
const REFRESH_PATIENCE: Duration = Duration::from_millis(100);

/// How long the addresses of a TileJSON may be asked for.
const SIGNED_TIMES: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_secs(60))..=TimeSpan(Duration::from_secs(366 * 24 * 3_600));

/// The longest drain. Supervisors kill the process long before.
const MAX_DRAIN: Duration = Duration::from_secs(3_600);
