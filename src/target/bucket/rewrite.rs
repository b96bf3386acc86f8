//! The pass that gives every tile of a prefix the headers of the configuration: each object is copied onto itself,
//! under the lease. The bytes stay as they are.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::client::Listed;
use super::lease::Lease;
use super::refusal::{Meaning, Refusal};
use super::store::Store;
use super::{Action, BucketError, BucketTiles, HeaderNote, header_note, unless_stopped, wait};
use crate::target::tree::Template;
use crate::tile::TileId;

/// The most attempts to copy an object that is replaced in the meantime.
const MAX_COPIES: u32 = 5;

/// What a pass did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RewrittenHeaders {
    /// The tiles that were given the headers.
    pub rewritten: u64,
    /// The tiles that an interrupted pass had given them before.
    pub before: u64,
}

impl BucketTiles {
    /// Gives every tile of the prefix the headers of the options, and notes that each tile has them. Continues where an
    /// interrupted pass with the same headers ended.
    /// Fails if the bucket cannot be read or written, or a stop was asked for; what was done stays done.
    pub fn rewrite_headers(mut self, layers: &[String]) -> Result<RewrittenHeaders, BucketError> {
        let Some(lease) = &self.lease else { return Err(self.not_open()) };
        let template = self.tree.template.clone().with_layers(layers.iter().map(String::as_str));
        let pass = HeaderPass { store: &self.store, lease, template, packed: self.tree.packs() };
        let done = wait(&self.runtime, unless_stopped(&self.stop, &self.store.location, pass.run()))?;
        self.release()?;
        Ok(done)
    }
}

/// A pass over the tiles.
struct HeaderPass<'a> {
    store: &'a Store,
    lease: &'a Lease,
    template: Template,
    /// True if tiles are stored as gzip.
    packed: bool,
}

struct ListedTile {
    name: String,
    tile: TileId,
    tag: Option<String>,
}

impl HeaderPass<'_> {
    async fn run(&self) -> Result<RewrittenHeaders, BucketError> {
        let (store, headers) = (self.store, self.store.options.headers_digest());
        let found = header_note::read(store).await?;
        let before = found.filter(|note| note.headers == headers && !note.is_complete).and_then(|note| note.after);
        let note = |after| HeaderNote { headers: headers.clone(), is_complete: false, after };
        header_note::write(store, &note(before.clone())).await?;
        let mut done = RewrittenHeaders::default();
        let (mut from, mut last, mut is_ordered) = (None, String::new(), true);
        loop {
            let page = store.list(&self.template.prefix(), from).await?;
            let mut wanted = Vec::new();
            for Listed { name, tag, .. } in page.found {
                // Amazon lists in the order of names. If a server does not, no position in the list shows which tiles
                // are done.
                is_ordered &= last < name;
                last.clone_from(&name);
                let Some(tile) = self.template.read(&name) else { continue };
                if before.as_ref().is_some_and(|before| name <= *before) {
                    done.before += 1;
                } else {
                    wanted.push(ListedTile { name, tile, tag });
                }
            }
            let count = wanted.len() as u64;
            stream::iter(wanted)
                .map(|listed| self.copied(listed))
                .buffer_unordered(store.options.section.in_flight.get())
                .try_collect::<()>()
                .await?;
            done.rewritten += count;
            self.lease.check()?;
            from = page.next;
            if from.is_none() {
                break;
            }
            if count > 0 {
                header_note::write(store, &note(is_ordered.then(|| last.clone()))).await?;
            }
        }
        self.lease.confirm().await?;
        header_note::write(store, &HeaderNote { headers, is_complete: true, after: None }).await?;
        Ok(done)
    }

    /// Gives a tile the headers. If it was replaced since it was listed, the new one gets them. A deleted tile needs no
    /// headers.
    async fn copied(&self, listed: ListedTile) -> Result<(), BucketError> {
        let (mut tag, mut copies) = (listed.tag, 1);
        loop {
            if tag.is_none() {
                let Some(found) = self.store.head(&listed.name).await? else { return Ok(()) };
                tag = found.tag;
            }
            match self.copy(&listed.name, listed.tile, tag.as_deref()).await {
                Ok(()) | Err(Refusal { meaning: Meaning::Missing, .. }) => return Ok(()),
                Err(Refusal { meaning: Meaning::Condition, .. }) if copies < MAX_COPIES => {
                    (tag, copies) = (None, copies + 1);
                }
                Err(refusal) => return Err(self.store.error(Action::Put, &listed.name, refusal)),
            }
        }
    }

    /// Gives a tile with this `ETag` the headers.
    async fn copy(&self, name: &str, tile: TileId, tag: Option<&str>) -> Result<(), Refusal> {
        let headers = super::headers::of_tile(&self.store.options, tile, self.packed);
        let _flight = self.store.flights.begin();
        self.store.client.set_headers(&self.store.key(name), headers, tag).await
    }
}
