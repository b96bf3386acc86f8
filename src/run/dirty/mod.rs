//! Finds the dirty tiles of a target: reads its manifest and the database's change log.
//!
//! | file | what |
//! |---|---|
//! | `tiles` | which tiles are dirty, and why; the same in partial regions, and the tiles that are to be stored there |

mod tiles;

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_blocking;

use super::describe::fingerprint;
use super::identity::{LogIdentity, SameDatabase, compare};
use super::target::{Target, regions_to_seed, why_not_repairable};
use super::{CommandError, Job, KnownState, reading};
use crate::change_log;
use crate::change_log::{Cursor, Presence, StateInHistory, UnseenLog, Watch, newest_logged, tracked};
use crate::config::{JobSettings, TilesetSettings};
use crate::manifest::{DatabaseIdentity, MANIFEST_VERSION, Manifest, Region, Witness, drawn_otherwise};
use crate::plan::{Dirty, DrawnLayer, FeatureSearch};
use crate::postgis::{Database, Layer, LayerLocks, Probed, Reads, Server, Snapshot, probe, survey};
use crate::serve::LogLook;
use crate::target::{Described, GENERATOR, OpenMode, PartialScope, ReadError};
use crate::tile::{AreaPart, Batch, Coverage, NoTile, Scope, SearchBox, TileCoord, ZoomList, area_texts};

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
    pub(crate) job: Job,
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
    pub(crate) async fn begin(job: &Job, filter: &'a DirtyFilter, writes: bool) -> Result<Look<'a>, CommandError> {
        Look::followed(job, filter, writes, None).await
    }

    /// Like [`Look::begin`]. The log is also asked for its witnesses of the follower's last look and of this one.
    async fn followed(
        job: &Job,
        filter: &'a DirtyFilter,
        writes: bool,
        follower: Option<&LogFollower>,
    ) -> Result<Look<'a>, CommandError> {
        let (settings, target, stop) = (&job.settings, &job.target, &job.stop);
        let database = job.database()?;
        let state = {
            let target = target.clone();
            reading(stop, move || TargetState::read(&target))
        };
        let (state, snapshot) = if writes && settings.tileset.layers.iter().any(|layer| layer.section.refresh()) {
            // A refresh may take long, so it must not run for a target that needs a seed.
            (state.await?, job.take_snapshot(&database, true).await?)
        } else {
            // Both at once: each may wait for a server.
            let (state, snapshot) = tokio::join!(state, job.take_snapshot(&database, false));
            let (state, snapshot) = (state?, snapshot?);
            // Another run may have published a later state between the two.
            let is_seen = snapshot.cursor().parse().is_ok_and(|now| state.is_seen_by(&now));
            (state, if is_seen { snapshot } else { job.take_snapshot(&database, false).await? })
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
        let last = follower.and_then(LogFollower::witness);
        let seen = state.witnesses.iter().chain(last).map(|witness| witness.snapshot.as_str());
        let seen = seen.chain(follower.map(|_| snapshot.cursor()));
        let log = LogIdentity::read(&snapshot, &settings.database.changes.schema, seen).await?;
        let fingerprint = fingerprint(&settings, &probed.layers);
        let same = state.fits(target, &probed.server.identity, log.as_ref(), &fingerprint, &probed.reads)?;
        Ok(Look {
            job: job.with_settings(settings),
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
        job: &Job,
        filter: &'a DirtyFilter,
        state: TargetState,
        database: Database,
        snapshot: Arc<Snapshot>,
        probed: Probed,
    ) -> Look<'a> {
        Look {
            job: job.clone(),
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

    /// Finds the dirty tiles.
    pub(crate) async fn work(&self) -> Result<Work, CommandError> {
        let Look { state, filter, .. } = self;
        match &filter.tiles {
            TilesWanted::Changed => {
                let watches = self.watches(&state.cursor).await?;
                tiles::from_log(self, &watches, filter).await
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
        let Look { job, snapshot, layers, .. } = self;
        let schema = &job.settings.database.changes.schema;
        // A log whose state was read on this snapshot is there.
        let presence = self.log.as_ref().map(|_| Presence::Readable);
        let watches = tracked(&self.database, snapshot, schema, presence, layers, since).await;
        let watches = watches.map_err(|error| match error {
            change_log::ChangeLogError::LogGap(why) => CommandError::LogGap { target: job.target.to_string(), why },
            other => other.into(),
        })?;
        if let Some((now, seen)) = self.log.as_ref().and_then(|log| log.is_behind(&self.state.witnesses)) {
            let why = change_log::LogGap::Older { server: self.database.server().clone(), now, seen };
            return Err(CommandError::LogGap { target: job.target.to_string(), why });
        }
        self.is_of_this_database()?;
        Ok(watches)
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
                return Err(CommandError::OtherHistory { target: self.job.target.to_string() });
            }
            _ => return Ok(()),
        };
        Err(needs_seed(&self.job.target, why))
    }
}

// Follows the change log for a server. Each look finds the tiles that have changed since the last one, at every zoom of
// the layers and not only of the target.

/// The most tiles that one look lists.
const MAX_LISTED: usize = 50_000;

/// Where the last look ended.
pub(crate) struct LogFollower {
    /// The database state of the last look.
    seen: Option<Cursor>,
    witness: Option<Witness>,
    /// What the target showed at the last look.
    shown: Cursor,
}

impl LogFollower {
    /// Nothing is seen yet.
    pub(crate) fn new() -> LogFollower {
        LogFollower { seen: None, witness: None, shown: Cursor::default() }
    }

    pub(crate) const fn witness(&self) -> Option<&Witness> {
        self.witness.as_ref()
    }

    /// Finds what has changed since the last look; the first time, since the state that the target shows. If the
    /// database has another history than at the last look, or than the live tiles that show the states `kept`, any tile
    /// may differ, also those of which the target shows nothing. Fails if the log cannot be trusted, or the database or
    /// the target cannot be reached.
    pub(crate) async fn look(&mut self, job: &Job, kept: &[StateInHistory]) -> Result<LogLook, CommandError> {
        let (filter, begun) = (DirtyFilter::default(), Instant::now());
        let look = Look::followed(job, &filter, false, Some(&*self)).await?;
        let shown = look.state.cursor.clone();
        let is_other = look
            .log
            .as_ref()
            .zip(self.witness.as_ref())
            .is_some_and(|(log, witness)| log.contradicts([witness]) || log.is_behind([witness]).is_some());
        let is_other = is_other || !look.has_all_of(kept).await?;
        // If the target went back to an older state, it may lack changes that looks before the last one have seen.
        let last = self.seen.take().filter(|_| shown.sees_all_of(&self.shown) && !is_other);
        let mut found = look.since(last.unwrap_or_else(|| shown.clone()), begun).await?;
        if is_other {
            (found.dirty, found.is_other_history) = (None, true);
        }
        (self.seen, self.shown) = (Some(found.seen.clone()), shown);
        self.witness = look.log.as_ref().and_then(|log| log.witness(look.snapshot.cursor()).cloned());
        Ok(found)
    }

    /// Forgets where the last look ended, because changes may have been missed since. True if there was one.
    pub(crate) fn begin_anew(&mut self) -> bool {
        self.seen = None;
        self.witness.take().is_some()
    }
}

impl Look<'_> {
    /// True if the database's history has these states.
    async fn has_all_of(&self, states: &[StateInHistory]) -> Result<bool, CommandError> {
        let schema = &self.job.settings.database.changes.schema;
        let now: Cursor = self.snapshot.cursor().parse()?;
        let cursors: Vec<Cursor> = states.iter().map(|kept| kept.state.clone()).collect();
        let newest = newest_logged(&self.snapshot, schema, &cursors).await?;
        Ok(states.iter().zip(newest).all(|(kept, newest)| now.sees_all_of(&kept.state) && kept.newest == newest))
    }

    /// What has changed since a database state. The look was begun at the moment `begun`.
    async fn since(&self, since: Cursor, begun: Instant) -> Result<LogLook, CommandError> {
        let watches = self.watches(&since).await?;
        let seen = self.snapshot.cursor().parse()?;
        let transactions = self.unseen(&since).transactions().await?;
        let mut found = LogLook { since, seen, transactions, dirty: Some(Vec::new()), is_other_history: false, begun };
        let zooms = ZoomList::of(self.layers.iter().flat_map(|layer| layer.zooms().iter()));
        let Some(zooms) = zooms.filter(|_| !found.transactions.is_empty()) else { return Ok(found) };
        let mut dirty = Dirty::new(&[Scope { zooms, coverage: Coverage::new(&[]) }], MAX_LISTED);
        for (layer, watches) in self.layers.iter().zip(&watches) {
            let drawn = drawn(layer);
            for watch in watches {
                let mark = |spot| match dirty.mark(&drawn, &spot) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_too_many) => ControlFlow::Break(()),
                };
                if !self.unseen(&found.since).positions(watch, layer, mark).await? {
                    found.dirty = None;
                    return Ok(found);
                }
            }
        }
        found.dirty = Some(dirty.iter().collect::<Vec<TileCoord>>());
        Ok(found)
    }

    /// The part of the change log that a cursor has not seen.
    fn unseen<'c>(&'c self, cursor: &'c Cursor) -> UnseenLog<'c> {
        UnseenLog { snapshot: &self.snapshot, schema: &self.job.settings.database.changes.schema, cursor }
    }
}

// The state of a target according to its manifest, and whether it fits the database and the settings.

/// A target that a reseed may bring up to date, according to its manifest.
#[derive(Debug, Clone)]
pub(crate) struct TargetState {
    pub(crate) described: Described,
    pub(crate) manifest: Manifest,
    /// The snapshot up to which the target has seen the change log.
    pub(crate) cursor: Cursor,
    /// The regions of the tileset that the target holds.
    pub(crate) parts: Vec<Scope>,
    pub(crate) partial: PartialScope,
    /// Tiles that earlier runs could not render.
    pub(crate) unrendered: Vec<TileCoord>,
    /// The witnesses of all database states that the target has seen.
    pub(crate) witnesses: Vec<Witness>,
}

pub(crate) fn needs_seed(target: &Target, why: impl Into<String>) -> CommandError {
    CommandError::NeedsSeed { target: target.to_string(), why: why.into() }
}

impl TargetState {
    /// Reads a target's manifest, and takes over what its family's manifest says of it. May wait for a server.
    pub(crate) fn read(target: &Target) -> Result<TargetState, CommandError> {
        let mut reader = match target.reader() {
            Err(CommandError::Read(ReadError::Missing { .. })) => return Err(needs_seed(target, "there is none yet")),
            reader => reader?,
        };
        let described = reader.describe()?;
        let Some(text) = &described.manifest else {
            return Err(needs_seed(
                target,
                "it has no manifest, so nobody knows what it shows (another program made it, or a copy of a part)",
            ));
        };
        let unreadable = |cause: String| needs_seed(target, format!("its manifest cannot be read ({cause})"));
        let version: ManifestVersion = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        if version.version > MANIFEST_VERSION {
            let why = format!(
                "its manifest is of version {} and this program knows {MANIFEST_VERSION}: a newer oar-tiles wrote it, which can bring it up to date",
                version.version
            );
            return Err(needs_seed(target, why));
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(|error| unreadable(error.to_string()))?;
        let state = |text: &String| {
            text.parse::<Cursor>().map_err(|error: crate::change_log::CursorError| unreadable(error.to_string()))
        };
        let mut cursor = state(&manifest.snapshot)?;
        // An unfinished run that took its snapshot before it locked the target may have left tiles that are older than
        // the manifest.
        for left in described.unfinished.iter().flat_map(|intent| &intent.snapshots) {
            cursor = cursor.meet(&state(left)?);
        }
        let parts = manifest
            .regions()
            .map(|region| Scope::read(&region.zooms, &region.bbox))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unreadable(error.to_string()))?;
        let tile = |text: &String| text.parse().map_err(|NoTile| unreadable(format!("{text:?} is no tile")));
        let unrendered = manifest.unrendered.iter().map(tile).collect::<Result<_, CommandError>>()?;
        let partial = PartialScope::of(&manifest);
        if partial.regions().len() != manifest.partial.len() {
            return Err(unreadable("a partial region".to_owned()));
        }
        let witnesses: Vec<Witness> = manifest.witnesses().cloned().collect();
        for witness in &witnesses {
            state(&witness.snapshot)?;
        }
        let mut state = TargetState { described, manifest, cursor, parts, partial, unrendered, witnesses };
        target.known.iter().for_each(|known| state.know(known));
        Ok(state)
    }

    /// Takes over the cursor of the family's manifest, if that manifest is about the publication that the target shows.
    fn know(&mut self, known: &KnownState) {
        if self.needs_repair() {
            return;
        }
        let publication = self.manifest.publication.as_ref();
        if publication.is_some_and(|own| own.id == known.publication) && known.cursor.sees_all_of(&self.cursor) {
            self.cursor = known.cursor.clone();
            self.witnesses.extend(known.witnesses.iter().cloned());
        }
    }

    /// The state of tiles that are not published yet. They show `cursor` or a later state, and have to be brought
    /// forward at any cost.
    pub(crate) fn unpublished(cursor: Cursor, tileset: &TilesetSettings, unrendered: Vec<TileCoord>) -> TargetState {
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            generator: GENERATOR.to_owned(),
            snapshot: cursor.to_string(),
            zooms: tileset.zooms.to_string(),
            bbox: area_texts(&tileset.bbox),
            // So high that a seed is never chosen instead.
            stored: u64::MAX,
            ..Manifest::default()
        };
        let parts = vec![tileset.scope()];
        let (described, partial) = (Described::default(), PartialScope::of(&manifest));
        TargetState { described, manifest, cursor, parts, partial, unrendered, witnesses: Vec::new() }
    }

    /// True if a database state has everything that the target shows.
    pub(crate) fn is_seen_by(&self, now: &Cursor) -> bool {
        let cursors = self.witnesses.iter().filter_map(|witness| witness.snapshot.parse().ok());
        cursors.chain([self.cursor.clone()]).all(|seen: Cursor| now.sees_all_of(&seen))
    }

    /// The settings with the zooms and boxes of the target's last seed.
    pub(crate) fn settings(&self, settings: &JobSettings, target: &Target) -> Result<JobSettings, CommandError> {
        settings_of(&self.manifest.last_seeded(), settings, target)
    }

    /// The settings of the seeds that together, one after the other, bring the whole target up to date. May wait for a
    /// server.
    pub(crate) fn settings_to_seed(
        &self,
        settings: &JobSettings,
        target: &Target,
    ) -> Result<Vec<JobSettings>, CommandError> {
        let regions = regions_to_seed(target, &self.manifest, &self.described.unfinished)?;
        regions.iter().map(|region| settings_of(region, settings, target)).collect()
    }

    /// Why a reseed cannot repair what unfinished runs left in the target; `None` if it can.
    pub(crate) fn why_not_repairable(&self) -> Option<String> {
        self.described.unfinished.iter().find_map(|intent| why_not_repairable(intent, &self.manifest))
    }

    /// True if an unfinished run may have left something to repair.
    pub(crate) fn needs_repair(&self) -> bool {
        !self.described.unfinished.is_empty()
    }

    /// True if the public address in the settings differs from the one that a directory or a prefix has.
    pub(crate) fn is_readdressed(&self, settings: &JobSettings, target: &Target) -> bool {
        let wanted = settings.tileset.tree.public_url.as_ref();
        !target.url.is_archive() && wanted.is_some() && wanted != self.described.public_url.as_ref()
    }

    /// Refuses a target that shows another database, has another configuration, or was rendered by another PostGIS.
    /// Returns whether the target is known to show this database.
    pub(crate) fn fits(
        &self,
        target: &Target,
        identity: &DatabaseIdentity,
        log: Option<&LogIdentity>,
        fingerprint: &str,
        reads: &Reads,
    ) -> Result<SameDatabase, CommandError> {
        let key = log.map(LogIdentity::key);
        let same = compare(self.manifest.database.as_ref(), identity, key).map_err(|why| needs_seed(target, why))?;
        if let Some(why) = drawn_otherwise(&self.manifest.fingerprint, fingerprint) {
            return Err(needs_seed(target, why));
        }
        if self.manifest.fingerprint != fingerprint {
            let why = format!(
                "it was seeded with another configuration (its fingerprint is {}, that of the settings {fingerprint}): give the --config and --layer that it was seeded with, if it is to stay as it is",
                self.manifest.fingerprint
            );
            return Err(needs_seed(target, why));
        }
        if self.manifest.reads.as_ref().is_some_and(|then| *then != reads.digest) {
            let why = "the tables and views that its layers read are not those of then: one was replaced, redefined, attached or detached";
            return Err(needs_seed(target, why));
        }
        if let Some(why) = self.why_not_repairable() {
            return Err(needs_seed(target, why));
        }
        if let Some(table) = &reads.row_security {
            let why = format!(
                "{table} has row level security: which rows this role sees may change without any row being changed. Seed each time, or with a role that bypasses it"
            );
            return Err(needs_seed(target, why));
        }
        Ok(same)
    }
}

/// The settings with the zooms and boxes of a region.
fn settings_of(region: &Region, settings: &JobSettings, target: &Target) -> Result<JobSettings, CommandError> {
    let unreadable = |error| needs_seed(target, format!("its manifest cannot be read ({error})"));
    settings.of_region(region).map_err(unreadable)
}

/// The version of a manifest's layout. It is parsed before the rest, because the rest may have another form.
#[derive(serde::Deserialize)]
struct ManifestVersion {
    version: u32,
}
