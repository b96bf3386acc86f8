//! The variants of a tileset on a server: the known ones, which the family's manifest lists, and the open ones.
//!
//! ```text
//! /facilities/bd/4/11/6.pbf ─► a known value? ─ no ─► 404, from memory
//!                                   └ yes ─► open already? ─ no ─► opened, and the least recently used one is closed
//! ```
//!
//! The tag of the manifest is checked once every [`POLL`], so no request waits for it. The target of a variant is watched like that of any tileset.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tokio::task::JoinHandle;

use crate::serve::error::ServeError;
use crate::serve::observe::metrics::{MeasuredFamily, Metrics};
use crate::serve::observe::trouble::Trouble;
use crate::serve::target::watch::POLL;
use crate::serve::tilesets::opening::{OpenedTarget, SiteParts};
use crate::serve::tilesets::tileset::{SiteTileset, tileset_segment};
use crate::serve::tilesets::variants::{FamilyParts, FoundVariant, KnownVariants, VariantSource};
use crate::serve::writer::{FamilyWriter, WriterStatus, WrittenVariants, described};
use crate::sink::ReadError;

/// The most variants of a family that are open at once. Each takes up to three open files for each of two readers, and some 100 kB.
pub(crate) const MAX_OPEN_VARIANTS: u64 = 64;

/// A variant that no client asks for is closed after this time.
const IDLE: Duration = Duration::from_secs(300);

/// The variants of a tileset.
pub(crate) struct SiteFamily {
    /// The name of the tileset.
    pub(crate) name: Arc<str>,
    /// The names of the values in an address.
    pub(crate) values: Vec<String>,
    source: Arc<dyn VariantSource>,
    known: RwLock<Arc<KnownVariants>>,
    open: Cache<Vec<String>, Arc<OpenVariant>>,
    /// The writer that keeps the variants up to date; `None` if another process does.
    pub(crate) writer: Option<Arc<dyn FamilyWriter>>,
    /// The state of the writer.
    status: Mutex<WriterStatus>,
    /// Records if the manifest can be read.
    reading: Trouble,
    /// Records if the last attempt to open a variant failed.
    opening: Trouble,
    shared: SiteParts,
    /// The counters, which all variants share: the number of metrics does not grow with them.
    metrics: Metrics,
}

/// A variant that is open. Dropping it ends its tasks.
pub(crate) struct OpenVariant {
    /// The tileset.
    pub(crate) tileset: Arc<SiteTileset>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Drop for OpenVariant {
    fn drop(&mut self) {
        for task in self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
        if let Some(changes) = &self.tileset.changes {
            changes.end();
        }
    }
}

impl SiteFamily {
    /// Reads the manifest for the first time.
    ///
    /// # Errors
    /// If the manifest cannot be read or does not exist.
    pub(crate) async fn open(
        parts: FamilyParts,
        metrics: Metrics,
        shared: SiteParts,
    ) -> Result<SiteFamily, ServeError> {
        let FamilyParts { name, values, source, writer } = parts;
        let of_thread = Arc::clone(&source);
        let read = tokio::task::spawn_blocking(move || of_thread.read(None)).await;
        let listing = read.map_err(|error| ServeError::Died(error.to_string()))??;
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
            status: Mutex::default(),
            reading: Trouble::none(
                "the manifest of the variants cannot be read",
                "the manifest of the variants can be read again",
            ),
            opening: Trouble::none("a variant cannot be opened", "a variant was opened again"),
            shared,
            metrics,
        })
    }

    /// The known variants.
    pub(crate) fn known(&self) -> Arc<KnownVariants> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
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
    ///
    /// # Errors
    /// If it cannot be opened.
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
            let target = OpenedTarget::open_small(parts, &self.shared.options).await?;
            let path = format!("{}{}", self.path(), SiteFamily::path_of(&listed.segments));
            let tileset = Arc::new(target.served_as_variant(path, &self.name, self.metrics.clone(), &self.shared));
            let tasks = Mutex::new(tasks_of(&tileset));
            Ok::<_, ServeError>(Arc::new(OpenVariant { tileset, tasks }))
        };
        let opened = self.open.try_get_with_by_ref(&listed.segments, opening).await;
        match &opened {
            Ok(_) => self.opening.ends(),
            Err(error) => self.opening.begins(error),
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
            Ok(Err(error)) => return self.reading.begins(&error),
            Err(error) => return self.reading.begins(&error),
        };
        self.reading.ends();
        let Some(listing) = listing else { return };
        let known = Arc::new(KnownVariants::of(listing));
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&known);
        let gone: Vec<_> = self.open.iter().map(|(segments, _)| segments).collect();
        for segments in gone.iter().filter(|segments| !known.has(segments)) {
            self.open.invalidate(&***segments).await;
        }
    }

    /// Closes all variants.
    pub(crate) async fn close(&self) {
        self.open.invalidate_all();
        self.open.run_pending_tasks().await;
    }

    /// The reasons for `/readyz` to answer 503. A single variant that cannot be read is not among them, because the others are served.
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
            "writer": self.writer.as_ref().map(|_| described(&self.status)),
        })
    }

    /// Updates the values that are measured when the metrics are read.
    pub(crate) fn measured(&self) {
        let variants = self.known().listing.variants.len() as u64;
        self.metrics.measured_family(MeasuredFamily { variants, open: self.open.entry_count() });
    }
}

impl WrittenVariants for SiteFamily {
    fn refresh(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.look().await;
            let open: Vec<_> = self.open.iter().map(|(_, variant)| variant).collect();
            for variant in open {
                variant.tileset.tiles.refresh().await;
            }
        })
    }

    fn status(&self) -> &Mutex<WriterStatus> {
        &self.status
    }
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
