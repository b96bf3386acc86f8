//! Readers of targets in buckets: of tiles below a prefix, and of ranges of an archive.

use std::ops::Range;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;

use super::refusal::{Meaning, Refusal};
use super::shared::{MAX_SMALL_READ_BYTES, ReadTile};
use super::store::Store;
use super::tree_notes::read_latest;
use super::{Action, BucketError, BucketLocation, BucketOptions, ObjectKey, wait};
use crate::encode::MAX_STORED_TILE;
use crate::target::bucket::lease;
use crate::target::read::ReadAllowance;
use crate::target::tree::notes::TargetNotes;
use crate::target::tree::{Latest, Template, notes};
use crate::target::{Described, ReadError, TileReader};
use crate::tile::TileId;

/// A reader of a tileset below a prefix of a bucket.
#[derive(Debug)]
pub struct BucketReader {
    runtime: Handle,
    store: Arc<Store>,
    noted: TargetNotes,
    /// True if there are notes, whichever program wrote them.
    is_noted: bool,
    template: Template,
}

impl BucketReader {
    /// Opens a target. The template of its tiles' names comes from its metadata; `template` is for a target without
    /// metadata.
    /// Fails if the bucket cannot be read, or its metadata is broken.
    pub fn open(
        location: BucketLocation,
        options: BucketOptions,
        template: &Template,
        runtime: Handle,
    ) -> Result<BucketReader, ReadError> {
        let (store, noted, is_noted, template) = wait(&runtime, async {
            let store = Store::open(location, options).await?;
            let (metadata, begun) = tokio::join!(store.get(notes::METADATA), lease::begun(&store));
            let (metadata, begun) = (metadata?, begun?);
            let mut noted = match &metadata {
                Some(object) => notes::read(&object.body).map_err(|source| ReadError::Damaged {
                    place: store.place(notes::METADATA),
                    what: source.to_string(),
                })?,
                None => TargetNotes::default(),
            };
            let template = noted.template_or(template);
            let mut template = template
                .map_err(|error| ReadError::Damaged { place: store.place(notes::METADATA), what: error.to_string() })?;
            if !template.is_versioned() {
                noted.described.unfinished = begun.unfinished(noted.described.manifest.as_deref());
            }
            let mut is_noted = metadata.is_some();
            if template.is_versioned()
                && let Some(object) = store.get(notes::LATEST).await?
            {
                is_noted = true;
                template = template.with_version(&read_latest(&store, &object)?.version);
            }
            Ok::<_, ReadError>((store, noted, is_noted, template))
        })?;
        Ok(BucketReader { runtime, store, noted, is_noted, template })
    }
}

impl TileReader for BucketReader {
    fn describe(&mut self) -> Result<Described, ReadError> {
        Ok(self.noted.described.clone())
    }

    fn template(&self) -> Template {
        self.template.clone()
    }

    fn list(&mut self) -> Result<Vec<TileId>, ReadError> {
        // No version was published. There may be millions of tiles below the prefix, in a version that shards have
        // written.
        if self.template.lacks_version() {
            return Ok(Vec::new());
        }
        wait(&self.runtime, async {
            let (begin, mut tiles) = (self.template.prefix(), Vec::new());
            let mut pages = self.store.pages(&begin);
            while let Some(found) = pages.try_next().await? {
                tiles.extend(found.iter().filter_map(|object| self.template.read(&object.name)));
            }
            Ok(tiles)
        })
    }

    fn can_list(&mut self) -> Result<(), ReadError> {
        wait(&self.runtime, async { self.store.list(&self.template.prefix(), None).await.map(drop) })
            .map_err(ReadError::from)
    }

    fn holds_tileset(&mut self) -> Result<(), ReadError> {
        if self.is_noted {
            return Ok(());
        }
        let foreign = || {
            let what = format!("it has neither a metadata.json nor an object named as {}", self.template.text());
            ReadError::Foreign { place: self.store.location.to_string(), kind: "prefix of tiles", what }
        };
        if self.template.lacks_version() {
            return Err(foreign());
        }
        wait(&self.runtime, async {
            match self.store.list(&self.template.prefix(), None).await {
                Ok(page)
                    if page.next.is_none()
                        && !page.found.iter().any(|object| self.template.read(&object.name).is_some()) =>
                {
                    Err(foreign())
                }
                // The first page says nothing of the next one, and a right to read is no right to list.
                Ok(_) | Err(_) => Ok(()),
            }
        })
    }

    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError> {
        let store = &self.store;
        let at_once = stream::iter(tiles.iter().map(|id| self.template.name(*id))).map(|name| async move {
            let read = fetch(store, &name, MAX_SMALL_READ_BYTES).await;
            (name, read)
        });
        wait(&self.runtime, async {
            let mut at_once = at_once.buffered(store.options.section.in_flight.get());
            let (mut allowance, mut tiles) = (ReadAllowance::new(), Vec::new());
            while let Some((name, read)) = at_once.next().await {
                let read = match read {
                    // Larger tiles come one at a time, so that memory stays bounded.
                    Err(refusal) if refusal.meaning == Meaning::TooLarge => fetch(store, &name, MAX_STORED_TILE).await,
                    read => read,
                };
                let tile = read.map_err(|refusal| store.error(Action::Get, &name, refusal))?;
                if !allowance.take(tile.as_deref()) {
                    break;
                }
                tiles.push(tile);
            }
            Ok(tiles)
        })
    }
}

/// Fetches a tile of at most `most` bytes; `None` if it does not exist.
async fn fetch(store: &Store, name: &str, most: usize) -> Result<Option<Box<[u8]>>, Refusal> {
    let _permit = store.options.shared.begin_read(most as u64).await;
    let _flight = store.flights.begin();
    match store.read(name, None, most).await {
        Ok(object) => {
            store.options.shared.note(name, ReadTile::Present(object.digest));
            Ok(Some(object.body.into_boxed_slice()))
        }
        Err(refusal) if refusal.meaning == Meaning::Missing => {
            store.options.shared.note(name, ReadTile::Absent);
            Ok(None)
        }
        Err(refusal) => Err(refusal),
    }
}

/// The published versions of a target; `None` if there are none.
pub fn bucket_versions(
    location: BucketLocation,
    options: BucketOptions,
    runtime: &Handle,
) -> Result<Option<Latest>, ReadError> {
    wait(runtime, async {
        let store = Store::open(location, options).await?;
        match store.get(notes::LATEST).await? {
            Some(object) => Ok(Some(read_latest(&store, &object)?)),
            None => Ok(None),
        }
    })
}

/// A reader of ranges of an object. All ranges come from the object as it was when it was opened.
#[derive(Debug)]
pub struct BucketObject {
    runtime: Handle,
    store: Arc<Store>,
    name: String,
    pub(crate) place: String,
    tag: Option<String>,
    length: u64,
}

impl BucketObject {
    /// Opens an object.
    /// Fails if the object does not exist, or cannot be read.
    pub fn open(key: &ObjectKey, options: BucketOptions, runtime: Handle) -> Result<BucketObject, ReadError> {
        let name = key.key.clone();
        let (store, length, tag) = wait(&runtime, async {
            let store = Store::open(key.bucket_as_location(), options).await?;
            let head = store.head(&name).await?.ok_or_else(|| BucketError::Missing { place: store.place(&name) })?;
            Ok::<_, BucketError>((store, head.length, head.tag))
        })?;
        Ok(BucketObject { runtime, place: store.place(&name), store, name, tag, length })
    }

    /// In bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Reads `length` bytes from `offset` on, or as many as there are.
    /// Fails if the object cannot be read, or was replaced since it was opened.
    pub fn read_at(&self, offset: u64, length: u64) -> Result<Vec<u8>, ReadError> {
        let range = offset..offset.saturating_add(length).min(self.length);
        if range.is_empty() {
            return Ok(Vec::new());
        }
        wait(&self.runtime, self.read_range(range))
    }

    async fn read_range(&self, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
        let wanted = range.end - range.start;
        let most = usize::try_from(wanted).unwrap_or(usize::MAX);
        let _permit = self.store.options.shared.begin_read(wanted).await;
        let object = self.store.read(&self.name, Some(range.clone()), most).await;
        let object = object.map_err(|refusal| self.store.error(Action::Get, &self.name, refusal))?;
        if self.tag.as_ref().is_some_and(|tag| *tag != object.tag) {
            return Err(ReadError::Damaged {
                place: self.place.clone(),
                what: "it was replaced while it was read".to_owned(),
            });
        }
        if object.body.len() as u64 != wanted {
            let what = format!("bytes={}-{} are {} bytes", range.start, range.end - 1, object.body.len());
            return Err(ReadError::Damaged { place: self.place.clone(), what });
        }
        Ok(object.body)
    }
}
