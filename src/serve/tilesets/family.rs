//! The variants of a tileset on a server: the known ones, which the family's manifest lists, and the open ones.
//!
//! ```text
//! /facilities/bd/4/11/6.pbf ─► a known value? ─ no ─► 404, from memory
//!                                   └ yes ─► open already? ─ no ─► opened, and the least recently used one is closed
//! ```
//!
//! The tag of the manifest is checked once every [`POLL`], so no request waits for it. The target of a variant is
//! watched like that of any tileset.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use parking_lot::{Mutex, RwLock};
use tokio::task::JoinHandle;

use super::opening::{OpenedTarget, SiteParts, TilesetParts};
use super::{NamedVariant, SiteTileset, tileset_segment};
use crate::serve::error::ServeError;
use crate::serve::http::route::ASSETS;
use crate::serve::known_changes::last_changed::TargetMemory;
use crate::serve::observe::FailureState;
use crate::serve::observe::metrics::{MeasuredFamily, Metrics};
use crate::serve::public::endpoints;
use crate::serve::target::watch::POLL;
use crate::serve::writer::{Writer, WriterObserver, WriterStatus};
use crate::target::ReadError;

/// The most variants of a family that are open at once. Each takes up to three open files for each of two readers, and
/// some 100 kB.
pub(crate) const MAX_OPEN_VARIANTS: u64 = 64;

/// A variant that no client asks for is closed after this time.
const IDLE: Duration = Duration::from_secs(300);

/// The variants of a tileset.
pub(crate) struct SiteFamily {
    pub(crate) name: Arc<str>,
    /// The names of the values in an address.
    pub(crate) values: Vec<String>,
    source: Arc<dyn VariantSource>,
    known: RwLock<Arc<KnownVariants>>,
    open: Cache<Vec<String>, Arc<OpenVariant>>,
    /// The writer that keeps the variants up to date; `None` if another process does.
    pub(crate) writer: Option<Arc<dyn Writer<WrittenVariants>>>,
    pub(crate) status: WriterStatus,
    /// Records if the manifest can be read.
    reading: FailureState,
    /// Records if the last attempt to open a variant failed.
    opening: FailureState,
    shared: SiteParts,
    /// The counters, which all variants share: the number of metrics does not grow with them.
    metrics: Metrics,
}

/// A variant that is open. Dropping it ends its tasks.
pub(crate) struct OpenVariant {
    pub(crate) tileset: Arc<SiteTileset>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for OpenVariant {
    fn drop(&mut self) {
        for task in self.tasks.get_mut() {
            task.abort();
        }
        if let Some(changes) = &self.tileset.changes {
            changes.end();
        }
    }
}

impl SiteFamily {
    /// Reads the manifest for the first time.
    /// Fails if the manifest cannot be read or does not exist.
    pub(crate) async fn open(
        parts: FamilyParts,
        metrics: Metrics,
        shared: SiteParts,
    ) -> Result<SiteFamily, ServeError> {
        let FamilyParts { name, values, source, writer } = parts;
        let of_thread = Arc::clone(&source);
        let listing = tokio::task::spawn_blocking(move || of_thread.read(None)).await??;
        let missing = || ReadError::Missing { place: format!("manifest of the variants of {name}") };
        let known = KnownVariants::of(listing.ok_or_else(missing)?);
        let open = Cache::builder().max_capacity(MAX_OPEN_VARIANTS).eviction_policy(EvictionPolicy::lru());
        Ok(SiteFamily {
            name: name.into(),
            values,
            source,
            known: RwLock::new(Arc::new(known)),
            open: open.time_to_idle(IDLE).build(),
            writer,
            status: WriterStatus::default(),
            reading: FailureState::new(
                "the manifest of the variants cannot be read",
                "the manifest of the variants can be read again",
            ),
            opening: FailureState::new("a variant cannot be opened", "a variant was opened again"),
            shared,
            metrics,
        })
    }

    pub(crate) fn known(&self) -> Arc<KnownVariants> {
        Arc::clone(&self.known.read())
    }

    /// The path of the family below the server: its name and a slash.
    pub(crate) fn path(&self) -> String {
        SiteTileset::path_of(&self.name)
    }

    /// The path of a variant below that of the family, with a slash at its end.
    pub(crate) fn path_of(segments: &[String]) -> String {
        segments.iter().map(|segment| format!("{}/", tileset_segment(segment))).collect()
    }

    /// A variant; it is opened if it is not open yet.
    pub(crate) async fn variant(
        &self,
        known: &KnownVariants,
        found: FoundVariant,
    ) -> Result<Arc<OpenVariant>, Arc<ServeError>> {
        let Some(listed) = known.listing.variants.get(found.0) else {
            return Err(Arc::new(ServeError::Died("a variant has no number".to_owned())));
        };
        let opening = async {
            let parts = (known.listing.open)(found.0)?;
            let target = OpenedTarget::open(parts, &self.shared.options, TargetMemory::Small).await?;
            let path = format!("{}{}", self.path(), SiteFamily::path_of(&listed.segments));
            let tileset = Arc::new(target.served(path, Some(&self.name), self.metrics.clone(), &self.shared));
            let tasks = Mutex::new(tasks_of(&tileset));
            Ok::<_, ServeError>(Arc::new(OpenVariant { tileset, tasks }))
        };
        let opened = self.open.try_get_with_by_ref(&listed.segments, opening).await;
        match &opened {
            Ok(_) => self.opening.recovered(),
            Err(error) => self.opening.failed(error),
        }
        opened
    }

    /// Follows the manifest as long as the future is polled.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(POLL).await;
            self.look().await;
            // Closes idle and surplus variants even if no client asks for another one.
            self.open.run_pending_tasks().await;
        }
    }

    /// Reads the manifest again if it has changed.
    async fn look(&self) {
        let (source, tag) = (Arc::clone(&self.source), self.known().listing.tag.clone());
        let read = tokio::task::spawn_blocking(move || {
            // A run may have replaced the lists after the manifest was read and before they were.
            source.read(Some(&tag)).or_else(|_replaced| source.read(Some(&tag)))
        });
        let listing = match read.await {
            Ok(Ok(listing)) => listing,
            Ok(Err(error)) => return self.reading.failed(&error),
            Err(error) => return self.reading.failed(&error),
        };
        self.reading.recovered();
        let Some(listing) = listing else { return };
        let known = Arc::new(KnownVariants::of(listing));
        *self.known.write() = Arc::clone(&known);
        let gone: Vec<_> = self.open.iter().map(|(segments, _)| segments).collect();
        for segments in gone.iter().filter(|segments| !known.has(segments)) {
            self.open.invalidate(&***segments).await;
        }
    }

    pub(crate) async fn close(&self) {
        self.open.invalidate_all();
        self.open.run_pending_tasks().await;
    }

    /// The reasons for `/readyz` to answer 503. A single variant that cannot be read is not among them, because the
    /// others are served.
    pub(crate) fn reasons(&self) -> Vec<String> {
        self.reading.reason().into_iter().collect()
    }

    /// The family in `/status.json`.
    pub(crate) fn describe(&self) -> serde_json::Value {
        let known = self.known();
        serde_json::json!({
            "name": *self.name,
            "variants": known.listing.variants.len(),
            "open": self.open.entry_count(),
            "snapshot": known.listing.snapshot,
            "failure": self.opening.reason(),
            "writer": self.writer.as_ref().map(|_| self.status.describe()),
        })
    }

    /// Updates the values that are measured when the metrics are read.
    pub(crate) fn measured(&self) {
        let variants = self.known().listing.variants.len() as u64;
        self.metrics.set_measured_family(MeasuredFamily { variants, open: self.open.entry_count() });
    }
}

/// The variants of a tileset that a writer keeps up to date.
#[derive(Clone)]
pub struct WrittenVariants(pub(crate) Arc<SiteFamily>);

impl WriterObserver for WrittenVariants {
    async fn notice_publication(&self) {
        self.0.look().await;
        let open: Vec<_> = self.0.open.iter().map(|(_, variant)| variant).collect();
        for variant in open {
            variant.tileset.tiles.refresh().await;
        }
    }

    fn clear_dirty(&self) {}

    fn stand_by(&self) {}
}

/// Starts the tasks of a variant that run as long as it is open.
fn tasks_of(tileset: &Arc<SiteTileset>) -> Vec<JoinHandle<()>> {
    let polling = tileset.target.needs_polling().then(|| {
        let tiles = tileset.tiles.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(POLL).await;
                tiles.poll().await;
            }
        })
    });
    let telling = tileset.changes.clone().map(|events| tokio::spawn(events.run(tileset.tiles.clone())));
    [polling, telling].into_iter().flatten().collect()
}

// What a path below a family names: a variant, or the tileset without conditions, which has the name of the family.

pub(crate) const LIST: &str = "variants.json";

/// What a path below a family names.
pub(crate) enum BelowFamily<'a> {
    Variant(NamedVariant<'a>),
    List,
    /// Something of the tileset without conditions, or nothing.
    All,
}

/// What a path below a family names. `rest` begins with a slash, and is still percent-encoded; `all` is the tileset
/// without conditions.
pub(crate) fn below_family<'a>(family: &Arc<SiteFamily>, all: Option<&SiteTileset>, rest: &'a str) -> BelowFamily<'a> {
    let below = rest.strip_prefix('/').unwrap_or_default();
    if below == LIST {
        return BelowFamily::List;
    }
    let parts: Vec<&str> = below.split('/').collect();
    let count = family.values.len();
    let depth = all.map(|all| all.tiles.last().template.text().split('/').count());
    if parts.len() < count || is_of_all(&parts, count, depth) {
        return BelowFamily::All;
    }
    let decoded = parts.iter().take(count).map(|part| {
        let text = percent_encoding::percent_decode_str(part).decode_utf8();
        text.ok().map(std::borrow::Cow::into_owned)
    });
    let Some(values) = decoded.collect::<Option<Vec<String>>>() else { return BelowFamily::All };
    let known = family.known();
    let Some(found) = known.find(&values) else { return BelowFamily::All };
    let length: usize = parts.iter().take(count).map(|part| part.len() + 1).sum();
    let rest = rest.get(length..).filter(|rest| !rest.is_empty());
    BelowFamily::Variant(NamedVariant { family: Arc::clone(family), known, found, rest })
}

/// True if a path of these parts names something of the tileset without conditions, even if its first `count` parts may
/// be the values of a variant. The paths of the tileset's tiles have `depth` parts.
fn is_of_all(parts: &[&str], count: usize, depth: Option<usize>) -> bool {
    let Some(depth) = depth else { return false };
    let is_document = |part: &str| endpoints::named(part).is_some();
    match &parts[count..] {
        [] => parts.last().is_some_and(|part| is_document(part)),
        [one] if is_document(one) => false,
        [_] if parts[0] == ASSETS => true,
        [ASSETS, _] => false,
        _ => parts.len() == depth,
    }
}

// The variants of a family, as the server gets them.

/// The family of a tileset's variants.
pub struct FamilyParts {
    pub name: String,
    /// The names of the values in an address, in their order.
    pub values: Vec<String>,
    pub source: Arc<dyn VariantSource>,
    /// The writer that keeps the variants up to date while the server runs; `None` to leave that to others.
    pub writer: Option<Arc<dyn Writer<WrittenVariants>>>,
}

pub trait VariantSource: Send + Sync {
    /// The variants that the manifest lists; `None` if it still is the one with the tag `known`. Blocks.
    /// Fails if the manifest cannot be read or does not exist.
    fn read(&self, known: Option<&str>) -> Result<Option<VariantListing>, ReadError>;
}

/// The variants that a family's manifest lists.
pub struct VariantListing {
    /// What identifies the manifest.
    pub tag: String,
    /// The database state that all variants show.
    pub snapshot: String,
    /// The variants whose values are among those of the family.
    pub variants: Vec<ListedVariant>,
    pub open: VariantOpener,
}

/// Opens the variant of this number. Called on a runtime; does not wait.
pub type VariantOpener = Arc<dyn Fn(usize) -> Result<TilesetParts, ReadError> + Send + Sync>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedVariant {
    /// Its values, in the order of the address.
    pub values: Vec<String>,
    /// Its values as they are written in its output and in its address: letters and digits of ASCII, `-`, `_`, `.` and
    /// `~XX`.
    pub segments: Vec<String>,
}

/// The variants of a listing, found by their values and by their addresses.
pub(crate) struct KnownVariants {
    pub(crate) listing: VariantListing,
    by_values: HashMap<Vec<String>, usize>,
    by_segments: HashMap<Vec<String>, usize>,
}

/// A variant that an address names: its number in the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundVariant(pub(crate) usize);

impl KnownVariants {
    pub(crate) fn of(listing: VariantListing) -> KnownVariants {
        let by = |of: fn(&ListedVariant) -> &Vec<String>| {
            listing.variants.iter().enumerate().map(|(number, variant)| (of(variant).clone(), number)).collect()
        };
        let (by_values, by_segments) = (by(|variant| &variant.values), by(|variant| &variant.segments));
        KnownVariants { listing, by_values, by_segments }
    }

    /// True if there is a variant whose address has these segments.
    pub(crate) fn has(&self, segments: &[String]) -> bool {
        self.by_segments.contains_key(segments)
    }

    /// The variant with these percent-decoded values: either the segments of its output, or exactly its values.
    pub(crate) fn find(&self, values: &[String]) -> Option<FoundVariant> {
        self.by_segments.get(values).or_else(|| self.by_values.get(values)).map(|number| FoundVariant(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tileset_without_conditions_keeps_its_paths() {
        // With one value, and tiles of three parts.
        for (path, is_its) in [
            ("tiles.json", true),
            ("mills.tiles.json", true),
            ("changes", true),
            ("", true),
            ("5/3/2.pbf", true),
            ("assets/preview.js", true),
            ("bd", false),
            ("bd/", false),
            ("bd/tiles.json", false),
            ("bd/changes", false),
            ("5/5/3/2.pbf", false),
            ("5/tiles.json", false),
            ("assets/tiles.json", false),
            ("assets/5/3/2.pbf", false),
            ("bd/assets/preview.js", false),
        ] {
            let parts: Vec<&str> = path.split('/').collect();
            assert_eq!(is_of_all(&parts, 1, Some(3)), is_its, "{path}");
            assert!(!is_of_all(&parts, 1, None), "{path}");
        }
    }
}
