//! The checked settings.

use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::ConfigError;
use super::file::{AutoWord, ConfigFile, RowsMb, RunSection, TilesetSection};
use super::filters::FilterSettings;
use super::memory::usable_memory;
use super::values::{ConfigValues, Origin};
use super::variants::{Variant, VariantSettings, without_names};
use crate::cdn::PurgeOptions;
use crate::change_log::ChangesSection;
use crate::encode::{Level, Packing, TileCompression, TileFormat};
use crate::manifest::Region;
use crate::pipeline::Limits;
use crate::postgis::{ConnectOptions, ConnectParts, Database, DatabaseSection, Error, LayerOptions, SessionOptions};
use crate::serve::ServeOptions;
use crate::setting::TimeSpan;
use crate::stop::Stop;
use crate::target::{BucketOptions, MaxShrink, MaxShrinkError, TreeOptions};
use crate::tile::{AreaPart, Coverage, Scope, ScopeError, TileTextNames, TilesetTag, ZoomList, area_of_texts};

/// How tiles are encoded.
const FORMAT: TileFormat = TileFormat::MVT;

/// The most megabytes that cached rows may take: more than any machine has.
const MAX_ROWS_MB: usize = 16_000_000;

/// The most sessions that render in parallel.
const MAX_WORKERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(255);

/// The longest wait for a lock.
const LOCK_TIMEOUTS: RangeInclusive<TimeSpan> =
    TimeSpan(Duration::from_millis(10))..=TimeSpan(Duration::from_secs(3_600));

/// The share for `rows_mb = "auto"`: the usable memory of the process divided by this number.
const AUTO_ROWS_SHARE: usize = 4;

/// The memory for cached rows, in bytes, if the system does not report how much memory there is. With
/// `rows_mb = "auto"` also the most memory for the cached rows of a reseed, which are few.
const FALLBACK_ROWS_MEMORY: usize = 160_000_000;

/// All settings of a run of one tileset.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: DatabaseSettings,
    pub run: RunSettings,
    pub server: ServeOptions,
    pub tileset: TilesetSettings,
}

/// The database and its change log.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    pub connect: ConnectOptions,
    pub session: SessionOptions,
    pub changes: ChangesSection,
}

#[derive(Debug, Clone)]
pub struct RunSettings {
    /// The number of sessions that render in parallel.
    pub workers: NonZeroUsize,
    /// The most features and tiles that one statement renders.
    pub(crate) batch_features: NonZeroU64,
    pub(crate) limits: Limits,
    /// The memory for the cached rows of a seed, in bytes.
    pub(crate) rows_memory: usize,
    /// The memory for the rows that a reseed caches near changes, in bytes.
    pub(crate) near_rows_memory: usize,
    /// The keys that need no more than their type.
    pub(crate) section: RunSection,
}

/// A tileset: its layers, its target, and how that is written.
#[derive(Debug, Clone)]
pub struct TilesetSettings {
    pub name: String,
    pub zooms: ZoomList,
    /// The boxes; empty for the whole world.
    pub bbox: Vec<AreaPart>,
    /// The target, as a path or an address.
    pub output: PathBuf,
    /// The share of the target's tiles that a run may delete.
    pub(crate) max_shrink: MaxShrink,
    /// How a directory or an S3 prefix is written.
    pub tree: TreeOptions,
    /// How S3 is reached, and the headers of objects.
    pub bucket: BucketOptions,
    /// The CDNs that are notified of what changed.
    pub purges: Vec<PurgeOptions>,
    /// What requests for live tiles may ask.
    pub filters: FilterSettings,
    /// The layers, in the order in which they stand in a tile.
    pub layers: Vec<LayerOptions>,
    /// The variants of the tileset; `None` if it is a single tileset.
    pub variants: Option<Arc<VariantSettings>>,
    /// The values by which the tileset is a variant, if it is one.
    pub(crate) variant: Option<Variant>,
    /// The keys that need no more than their type.
    pub(crate) section: Arc<TilesetSection>,
}

impl TilesetSettings {
    /// The zooms and boxes.
    pub(crate) fn scope(&self) -> Scope {
        Scope { zooms: self.zooms.clone(), coverage: Coverage::new(&self.bbox) }
    }
}

/// The names of the layers, by their ids. A layer that is drawn differently at different zooms is listed once.
pub(crate) fn layer_names(layers: &[LayerOptions]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for layer in layers {
        if names.last() != Some(&layer.name) {
            names.push(layer.name.clone());
        }
    }
    names
}

impl DatabaseSettings {
    /// The database, without a connection yet.
    pub(crate) fn open(&self, stop: &Stop) -> Result<Database, Error> {
        Database::new(&self.connect, self.session.clone(), stop)
    }
}

impl Settings {
    /// The settings with the zooms and boxes of a region.
    pub(crate) fn of_region(&self, region: &Region) -> Result<Settings, ScopeError> {
        let mut settings = self.clone();
        settings.tileset.zooms = region.zooms.parse()?;
        settings.tileset.bbox = area_of_texts(&region.bbox)?;
        Ok(settings)
    }

    /// Checks the values of one tileset and resolves them.
    ///
    /// # Errors
    /// If a value does not fit; the message names the key and the origin of the value. Also if the values are those of
    /// several tilesets (`ConfigValues::tilesets`).
    pub fn resolve(
        values: &ConfigValues,
        environment: &ConnectParts,
        only_layers: &[String],
    ) -> Result<Settings, ConfigError> {
        let several = || ConfigError::NotOneTileset {
            what: "this command",
            names: values.tileset_names().into_iter().map(str::to_owned).collect(),
        };
        if values.lists_tilesets() {
            return Err(several());
        }
        let given = values.together()?;
        let Some(section) = given.tileset.one() else { return Err(several()) };
        let check = Check { values };
        let url = check.database_url(&given.database)?;
        let url = url.as_deref();
        // The PG* variables override a URL from a file. A URL from a flag or from DATABASE_URL is only completed by
        // them.
        let url_is_weak = matches!(values.origin("database.url"), Some(Origin::File(_) | Origin::Default) | None);
        let connect = ConnectOptions::new(url, environment, url_is_weak, &given.database)?;
        let run = &given.run;
        let workers = check.workers("run.workers", run.workers)?;
        let window =
            NonZeroUsize::new(check.within("run.window", run.window, 1..=10_000)?).unwrap_or(NonZeroUsize::MIN);
        let batch = check.within("run.batch_features", run.batch_features, 1..=10_000_000)?;
        let batch = NonZeroU64::new(batch).unwrap_or(NonZeroU64::MIN);
        let (rows_memory, near_rows_memory) = match run.rows_mb {
            RowsMb::Megabytes(rows_mb) => {
                let bytes = check.within("run.rows_mb", rows_mb, 0..=MAX_ROWS_MB)? * 1_000_000;
                (bytes, bytes)
            }
            RowsMb::Word(AutoWord::Auto) => {
                let bytes = usable_memory().map_or(FALLBACK_ROWS_MEMORY, |bytes| bytes / AUTO_ROWS_SHARE);
                (bytes, bytes.min(FALLBACK_ROWS_MEMORY))
            }
        };
        let level = section.gzip_level;
        let Some(level) = Level::new(level) else {
            return Err(
                check.wrong("tileset.gzip_level", format!("{level} is no gzip level: write 1 (fast) to 12 (small)"))
            );
        };
        check.within_times("database.lock_timeout", given.database.lock_timeout, LOCK_TIMEOUTS)?;
        let changes = check.changes(&given.changes)?;
        let database = DatabaseSettings {
            connect,
            session: SessionOptions {
                section: given.database.clone(),
                // One more for the keeper, which holds the snapshot.
                connections: workers.get() + 1,
                parameters: Vec::new(),
                change_log: changes.schema.clone(),
            },
            changes,
        };
        let run = RunSettings {
            workers,
            batch_features: batch,
            limits: Limits {
                window,
                features: batch.saturating_mul(NonZeroU64::try_from(window).unwrap_or(NonZeroU64::MIN)),
                packing: Packing { format: FORMAT, compression: TileCompression::Gzip(level) },
            },
            rows_memory,
            near_rows_memory,
            section: given.run.clone(),
        };
        let tileset = check.tileset(&given, section, only_layers)?;
        let server = check.serve(&given.serve, tileset.bucket.names.clone())?;
        check.tags_are_sent(&tileset, &server)?;
        Ok(Settings { database, run, server, tileset })
    }
}

/// Checks values; its errors name the key and the origin of a wrong value.
pub(crate) struct Check<'a> {
    values: &'a ConfigValues,
}

impl Check<'_> {
    /// The origin of a key's value.
    pub(crate) fn origin(&self, key: &str) -> Option<&Origin> {
        self.values.origin(key)
    }

    pub(crate) fn wrong(&self, key: &str, what: String) -> ConfigError {
        let section = key.split(['.', '[']).next().unwrap_or(key);
        let origin = self.values.origin(key).or_else(|| self.values.origin(section));
        let of_tileset = key.strip_prefix("tileset.").zip(self.values.tileset.as_ref());
        ConfigError::Setting {
            key: of_tileset.map_or_else(|| key.to_owned(), |(field, name)| format!("tileset[{name}].{field}")),
            origin: origin.map_or_else(|| "nowhere".to_owned(), ToString::to_string),
            what,
        }
    }

    pub(crate) fn within<T: PartialOrd + std::fmt::Display>(
        &self,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
    ) -> Result<T, ConfigError> {
        if range.contains(&value) {
            return Ok(value);
        }
        Err(self.wrong(key, format!("{value} must lie between {} and {}", range.start(), range.end())))
    }

    /// True for a character that no address of a server or folder has.
    pub(crate) fn is_odd_in_address(c: char) -> bool {
        c.is_whitespace() || c.is_control() || matches!(c, '{' | '}' | '?' | '#' | '"' | '\\')
    }

    /// A duration within two others.
    pub(crate) fn within_times(
        &self,
        key: &str,
        time: TimeSpan,
        range: RangeInclusive<TimeSpan>,
    ) -> Result<Duration, ConfigError> {
        self.within(key, time, range).map(Duration::from)
    }

    /// A number of sessions that render in parallel; 0 for one per processor.
    pub(crate) fn workers(&self, key: &str, count: usize) -> Result<NonZeroUsize, ConfigError> {
        match NonZeroUsize::new(count) {
            None => Ok(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)),
            Some(count) => self.within(key, count, NonZeroUsize::MIN..=MAX_WORKERS),
        }
    }

    /// The text of a file that holds a secret or an address.
    pub(crate) fn text_of(&self, key: &str, path: &Path) -> Result<String, ConfigError> {
        let failed = |error: std::io::Error| self.wrong(key, format!("{} cannot be read ({error})", path.display()));
        std::fs::read_to_string(path).map_err(failed)
    }

    fn tileset(
        &self,
        given: &ConfigFile,
        tileset: &TilesetSection,
        only_layers: &[String],
    ) -> Result<TilesetSettings, ConfigError> {
        let chosen = tileset.layers.as_deref().filter(|_| only_layers.is_empty()).unwrap_or(only_layers);
        let layers = self.layers(given, chosen)?;
        let variants = self.variants(given, tileset, &layers)?.map(Arc::new);
        let (mut target, mut purges) = (given.target.clone(), given.purge.clone());
        if variants.is_some() {
            let urls = target.public_url.iter_mut().chain(purges.iter_mut().map(|purge| &mut purge.url));
            urls.for_each(|url| *url = without_names(url));
        }
        let names = TileTextNames { tag: TilesetTag::of(&tileset.name), layers: layer_names(&layers) };
        Ok(TilesetSettings {
            name: tileset.name.clone(),
            zooms: tileset.zoom.clone(),
            bbox: self.boxes(tileset.bbox.clone(), tileset.area.as_ref(), &tileset.zoom)?,
            output: tileset.output.clone(),
            max_shrink: (tileset.max_shrink.parse())
                .map_err(|error: MaxShrinkError| self.wrong("tileset.max_shrink", error.to_string()))?,
            tree: self.tree(&target)?,
            bucket: self.s3(&given.s3, names, FORMAT)?,
            purges: self.purges(&purges)?,
            filters: self.filters(tileset, &layers, &given.layer)?,
            layers,
            variants,
            variant: None,
            section: Arc::new(tileset.clone()),
        })
    }

    /// The database's address. A flag or the environment takes precedence over the file, whether the file has `url` or
    /// `url_file`.
    fn database_url(&self, database: &DatabaseSection) -> Result<Option<String>, ConfigError> {
        let url = database.url.as_ref().map(|url| url.0.clone());
        let Some(path) = &database.url_file else { return Ok(url) };
        match self.values.origin("database.url") {
            Some(Origin::Flag(_) | Origin::Environment(_)) => return Ok(url),
            None => {}
            Some(_) => {
                let what = "is given beside url_file: one of them is enough".to_owned();
                return Err(self.wrong("database.url", what));
            }
        }
        match self.text_of("database.url_file", path)?.trim() {
            "" => Err(self.wrong("database.url_file", format!("{} is empty: write the URL into it", path.display()))),
            url => Ok(Some(url.to_owned())),
        }
    }

    fn changes(&self, changes: &ChangesSection) -> Result<ChangesSection, ConfigError> {
        let schema = &changes.schema;
        // PostgreSQL truncates names of more than 63 bytes and reserves pg_. The other characters would end a quoted
        // text in the scripts of `track install`.
        let is_odd = |c: char| c.is_control() || matches!(c, '$' | '{' | '}');
        if schema.is_empty() || schema.len() > 63 || schema.starts_with("pg_") || schema.contains(is_odd) {
            return Err(self.wrong(
                "changes.schema",
                format!("{schema:?} cannot name it: write 1 to 63 bytes, not pg_…, without $, {{ and }}"),
            ));
        }
        Ok(changes.clone())
    }
}

pub(crate) fn first_repeated<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = std::collections::HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}
