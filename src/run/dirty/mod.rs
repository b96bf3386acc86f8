//! Finds the dirty tiles of a target: reads its manifest and the database's change log.
//!
//! | file | what |
//! |---|---|
//! | `tiles` | which tiles are dirty, and why; the same in partial regions, and the tiles that are to be stored there |

mod tiles;

use std::borrow::Cow;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::describe::fingerprint;
use super::identity::{LogIdentity, SameDatabase};
use super::target::{TargetState, needs_seed};
use super::{CommandError, TilesetRun, blocking_read};
use crate::change_log;
use crate::change_log::{Cursor, Presence, UnseenLog, Watch, tracked};
use crate::draw::{LiveRows, LiveStep};
use crate::manifest::Witness;
use crate::plan::{Dirty, DrawnLayer, FeatureSearch};
use crate::postgis::{Database, Layer, LayerLocks, Probed, Reads, Server, Snapshot, probe, survey};
use crate::target::OpenMode;
use crate::tile::{AreaPart, Batch, Coverage, Scope, SearchBox, TileCoord, ZoomList};

pub(crate) use super::dirty_file::listed;
pub(crate) use super::dirty_file::{TileList, TileListDocument, TileListError, area, area_or_boxes};
pub(crate) use tiles::{DirtyTiles, Work, drawn};

/// Which tiles a reseed renders.
#[derive(Debug, Clone, Default)]
pub enum TilesWanted {
    /// Tiles in which a change since the target's snapshot can be seen.
    #[default]
    Changed,
    List(TileList),
    /// The tiles that some boxes touch.
    Area(Vec<AreaPart>),
}

/// The options of a look for dirty tiles.
#[derive(Debug, Clone, Default)]
pub struct DirtyFilter {
    pub tiles: TilesWanted,
    /// Only these zooms. The target's snapshot then stays as it is, unless zooms and boxes cover the target's own.
    pub zoom: Option<ZoomList>,
    /// Only these boxes.
    pub bbox: Vec<AreaPart>,
    /// Do not retry tiles that earlier runs could not render, unless something else changed.
    pub(crate) leaves_unrendered: bool,
    /// Tiles outside of the target's scope that are to be stored, because a client has asked for them.
    pub(crate) written_back: Vec<TileCoord>,
}

impl DirtyFilter {
    /// True if only a part of the target is looked at.
    pub(crate) fn is_narrowed(&self) -> bool {
        self.zoom.is_some() || !self.bbox.is_empty()
    }

    /// True if its zooms and boxes leave out tiles of `parts`. Whoever gives `reseed` the flags of `seed` narrows
    /// nothing.
    fn leaves_out(&self, parts: &[Scope]) -> bool {
        Dirty::new(parts, 0).narrow(self.zoom.as_ref(), &Coverage::new(&self.bbox))
    }
}

/// A target and its database, seen at one snapshot.
pub(crate) struct Look<'a> {
    /// The run, with the zooms and boxes of the target's last seed.
    pub(crate) run: TilesetRun,
    /// Without zooms and boxes if they cover the target's own.
    pub(crate) filter: Cow<'a, DirtyFilter>,
    pub(crate) state: TargetState,
    pub(crate) database: Database,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) server: Server,
    /// What the change log says of the database; `None` if it has no key that this role may read.
    pub(crate) log: Option<LogIdentity>,
    same: SameDatabase,
    pub(crate) layers: Vec<Arc<Layer>>,
    pub(crate) locks: LayerLocks,
    pub(crate) reads: Reads,
    /// The warning that the role is a superuser, if it is one.
    pub(crate) superuser: Option<String>,
}

impl<'a> Look<'a> {
    /// Reads the target's manifest and the database. `writes` is true if the run is going to write the target.
    pub(crate) async fn begin(
        run: &TilesetRun,
        filter: &'a DirtyFilter,
        writes: bool,
    ) -> Result<Look<'a>, CommandError> {
        Look::asking(run, filter, writes, None).await
    }

    /// Like [`Look::begin`], without writing. The log is also asked for its witness of the state of `last`.
    pub(crate) async fn followed(
        run: &TilesetRun,
        filter: &'a DirtyFilter,
        last: Option<&Witness>,
    ) -> Result<Look<'a>, CommandError> {
        Look::asking(run, filter, false, last).await
    }

    async fn asking(
        run: &TilesetRun,
        filter: &'a DirtyFilter,
        writes: bool,
        last: Option<&Witness>,
    ) -> Result<Look<'a>, CommandError> {
        let (settings, target, stop) = (&run.settings, &run.target, &run.stop);
        let database = run.database()?;
        let state = {
            let target = target.clone();
            blocking_read(stop, move || TargetState::read(&target))
        };
        let (state, snapshot) = if writes && settings.tileset.layers.iter().any(|layer| layer.section.refresh()) {
            // A refresh may take long, so it must not run for a target that needs a seed.
            (state.await?, run.take_snapshot(&database, true).await?)
        } else {
            // Both at once: each may wait for a server.
            let (state, snapshot) = tokio::join!(state, run.take_snapshot(&database, false));
            let (state, snapshot) = (state?, snapshot?);
            // Another run may have published a later state between the two.
            let is_seen = snapshot.cursor().parse().is_ok_and(|now| state.is_seen_by(&now));
            (state, if is_seen { snapshot } else { run.take_snapshot(&database, false).await? })
        };
        let settings = state.settings(settings, target)?;
        let filter = if filter.is_narrowed() && !filter.leaves_out(&state.parts) {
            Cow::Owned(DirtyFilter { zoom: None, bbox: Vec::new(), ..filter.clone() })
        } else {
            Cow::Borrowed(filter)
        };
        let probed = probe(&snapshot, &settings.tileset.layers).await?;
        if state.why_not_repairable().is_some() && writes {
            // If the unfinished run is still under way, there is nothing to repair: that run holds the target's lock,
            // so opening the target fails.
            let target = target.clone();
            drop(spawn_blocking(move || target.sink(OpenMode::Edit)).await??);
        }
        let seen = state.witnesses.iter().chain(last).map(|witness| witness.snapshot.as_str());
        let log = LogIdentity::read(&snapshot, &settings.database.changes.schema, seen).await?;
        let fingerprint = fingerprint(&settings, &probed.layers);
        let same = state.fits(target, &probed.server.identity, log.as_ref(), &fingerprint, &probed.reads)?;
        Ok(Look {
            run: run.with_settings(settings),
            filter,
            state,
            database,
            snapshot,
            server: probed.server,
            log,
            same,
            layers: probed.layers,
            locks: probed.locks,
            reads: probed.reads,
            superuser: probed.superuser,
        })
    }

    /// A look at tiles that are not published yet, at a snapshot that was already probed.
    pub(crate) fn at_unpublished(
        run: &TilesetRun,
        filter: &'a DirtyFilter,
        state: TargetState,
        database: Database,
        snapshot: Arc<Snapshot>,
        probed: Probed,
    ) -> Look<'a> {
        Look {
            run: run.clone(),
            filter: Cow::Borrowed(filter),
            state,
            database,
            snapshot,
            server: probed.server,
            log: None,
            same: SameDatabase::Yes,
            layers: probed.layers,
            locks: probed.locks,
            reads: probed.reads,
            superuser: None,
        }
    }

    /// Finds the dirty tiles. Positions at which rows of `live` turn out to be what the target shows make none dirty;
    /// these rows are then brought to the look's snapshot.
    pub(crate) async fn work(&self, live: Option<&LiveRows>) -> Result<Work, CommandError> {
        let Look { state, filter, .. } = self;
        match &filter.tiles {
            TilesWanted::Changed => {
                let watches = self.watches(&state.cursor).await?;
                tiles::from_log(self, &watches, filter, live).await
            }
            TilesWanted::List(list) => {
                self.is_of_this_database()?;
                tiles::from_list(self, list).await
            }
            TilesWanted::Area(boxes) => {
                self.is_of_this_database()?;
                tiles::from_area(self, boxes).await
            }
        }
    }

    /// What the log holds for each layer. Fails if the log does not hold all changes since the cursor `since`.
    pub(crate) async fn watches(&self, since: &Cursor) -> Result<Vec<Vec<Watch>>, CommandError> {
        let Look { run, snapshot, layers, .. } = self;
        let schema = &run.settings.database.changes.schema;
        // A log whose state was read on this snapshot is there.
        let presence = self.log.as_ref().map(|_| Presence::Readable);
        let watches = tracked(&self.database, snapshot, schema, presence, layers, since).await;
        let watches = watches.map_err(|error| match error {
            change_log::ChangeLogError::LogGap(why) => CommandError::LogGap { target: run.target.to_string(), why },
            other => other.into(),
        })?;
        if let Some((now, seen)) = self.log.as_ref().and_then(|log| log.is_behind(&self.state.witnesses)) {
            let why = change_log::LogGap::Older { server: self.database.server().clone(), now, seen };
            return Err(CommandError::LogGap { target: run.target.to_string(), why });
        }
        self.is_of_this_database()?;
        Ok(watches)
    }

    /// Where this look stands for live rows. The target shows the state `since`.
    pub(crate) fn live_step<'s>(&'s self, since: &'s str) -> LiveStep<'s> {
        let (snapshot, memory) = (&*self.snapshot, self.run.rows_memory());
        LiveStep { snapshot, since, now: snapshot.cursor(), memory }
    }

    /// The part of the change log that a cursor has not seen.
    pub(crate) fn unseen<'c>(&'c self, cursor: &'c Cursor) -> UnseenLog<'c> {
        UnseenLog { snapshot: &self.snapshot, schema: &self.run.settings.database.changes.schema, cursor }
    }

    /// Writes into the batches in which areas to search for features. This is for layers whose reference system has no
    /// closed formula: all of their features are surveyed to find the ones in dirty tiles.
    pub(crate) async fn search(
        &self,
        batches: &mut [Batch],
        tiles: &[TileCoord],
        drawn: &[DrawnLayer],
        dirty: &Dirty,
    ) -> Result<(), CommandError> {
        // The zooms of every part of the target, not only those of its last seed.
        let Some(zooms) = ZoomList::of(tiles.iter().map(|tile| tile.zoom())) else { return Ok(()) };
        for (index, (layer, drawn)) in self.layers.iter().zip(drawn).enumerate() {
            if layer.is_found_by_area() {
                continue;
            }
            let surveyed = survey(&self.snapshot, layer, None, &Coverage::new(&[]), &zooms).await?;
            let found = FeatureSearch::new(dirty, drawn, &surveyed.footprints);
            for area in batches.iter_mut().flat_map(|batch| &mut batch.areas) {
                if area.search[index] == SearchBox::Area {
                    area.search[index] = found.search(&area.rect);
                }
            }
        }
        Ok(())
    }

    /// Refuses a target that may show another database. Reasons why the log itself cannot be used are reported first.
    fn is_of_this_database(&self) -> Result<(), CommandError> {
        let why = match (self.same, &self.filter.tiles, &self.log) {
            (SameDatabase::Unsaid, TilesWanted::Changed, Some(_)) => {
                "its manifest does not say which database it shows: it was seeded without the change log, or by a role that may not read it"
            }
            (SameDatabase::OtherKey, _, Some(_)) => {
                "it shows another database, or the change log was removed and installed anew since: the key by which its manifest says which database it shows is not the one of this log"
            }
            (SameDatabase::Yes, _, Some(log)) if log.contradicts(&self.state.witnesses) => {
                return Err(CommandError::OtherHistory { target: self.run.target.to_string() });
            }
            _ => return Ok(()),
        };
        Err(needs_seed(&self.run.target, why))
    }
}
