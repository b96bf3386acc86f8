//! The look of a reseed at all variants at once: it finds the variants that a change may concern. Only these are looked
//! at one by one.
//!
//! The change log is read once, since the state that the family's manifest names. A variant is skipped if two things
//! hold: it has no row now at any changed place, and its target, which shows that state or a later one, shows no point
//! at any of them. Then it had no row there before either, and none of its tiles has changed. The target itself is
//! read, so that no list of old memberships can be out of date.
//!
//! This works for layers of points that draw each row at every zoom of the layer. A change of any other layer concerns
//! every variant.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use super::{Family, FamilyRecord, FamilyRun, RecordedVariant, StoredFamily};
use crate::change_log;
use crate::change_log::{Cursor, LogGap, UnseenLog, Watch, tracked};
use crate::config::{ConfigError, Settings, VariantValues};
use crate::draw::patch::may_show;
use crate::draw::{FamilyCondition, MAX_PLACES, PlacedRows, members_at};
use crate::encode::Unpacker;
use crate::error::ErrorKind;
use crate::hex::hex;
use crate::manifest::{DatabaseIdentity, Witness};
use crate::plan::{Dirty, DrawnLayer, touched_tiles};
use crate::postgis::{Layer, LayerKind, Reads, Rows, Snapshot, probe};
use crate::run::describe::fingerprint;
use crate::run::dirty::drawn;
use crate::run::identity::{LogIdentity, SameDatabase, compare};
use crate::run::target::{TargetState, needs_seed};
use crate::run::{CommandError, Target, TilesetRun};
use crate::target::{DeadBytes, read_all};
use crate::tile::{ChangeLocation, Slice, TileCoord, TileId, TileRect, WorldBox, Zoom, area_texts};

/// What is known of all variants of a family.
pub(crate) struct FamilyLook {
    /// The state that the family's manifest names.
    cursor: Cursor,
    /// The layers with the conditions of the variants.
    layers: Vec<Arc<Layer>>,
    identity: DatabaseIdentity,
    log: Option<LogIdentity>,
    /// The states whose witnesses have shown that this database is their continuation.
    vouched: Vec<Cursor>,
    reads: Reads,
    /// Where rows have changed.
    places: ChangedPlaces,
    /// The variants that have rows at the changed places now.
    members: BTreeSet<usize>,
}

/// Whether the changes concern a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VariantState {
    /// No change concerns it, so it shows the state of the run.
    Untouched(UntouchedVariant),
    /// It has to be looked at by itself.
    Unknown,
}

/// The target of a variant that no change concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UntouchedVariant {
    /// The id of its publication.
    pub publication: String,
    /// The bytes of its archive that belong to no tile.
    pub dead: Option<DeadBytes>,
}

/// The places of changes, and the tiles in which rows at these places would show.
#[derive(Debug, Default)]
struct ChangedPlaces {
    /// The places, by the index of the layer that shows them.
    layers: BTreeMap<usize, PlacesOfLayer>,
}

#[derive(Debug, Default)]
struct PlacesOfLayer {
    boxes: BTreeSet<WorldBox>,
    /// The tiles of a target that are read.
    tiles: HashMap<TileCoord, PlacesInTile>,
}

/// The changed places that a tile shows.
#[derive(Debug, Default)]
struct PlacesInTile {
    positions: BTreeSet<[u32; 2]>,
    /// True if there is a place that is no point: any feature may lie there.
    has_boxes: bool,
}

/// The most tiles of a target that are read for one place.
const MAX_TILES_OF_PLACE: u64 = 16;

impl FamilyLook {
    /// Finds what has changed; `None` if each variant has to be looked at by itself. Fails if the database shows
    /// another history than the family's manifest, its change log cannot be trusted, or the layers do not fit.
    pub(crate) async fn begin(
        run: &FamilyRun<'_>,
        tileset_run: &TilesetRun,
    ) -> Result<Option<FamilyLook>, CommandError> {
        let (family, settings) = (run.family, &tileset_run.settings);
        let Some(before) = &run.before else { return Ok(None) };
        let (record, Some(cursor)) = (&before.record, before.cursor.clone()) else { return Ok(None) };
        let is_function = |options: &LayerKind| matches!(options, LayerKind::Function(_));
        if settings.tileset.layers.iter().any(|layer| is_function(&layer.kind)) {
            return Ok(None);
        }
        let database = tileset_run.database()?;
        let snapshot = tileset_run.take_snapshot(&database, false).await?;
        let table = &run.members.table;
        // No row fulfils a condition on values that are not set. This probe comes first, so that the session has only
        // the locks of a variant.
        let conditioned = settings.with_variant_conditions(&table.parameters)?;
        let probed = probe(&snapshot, &conditioned.tileset.layers).await?;
        let whole = match probe(&snapshot, &settings.tileset.layers).await {
            Ok(whole) => whole.layers,
            // A key may be unique only within each variant.
            Err(error) if error.kind() == ErrorKind::Usage => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let seen = record.witnesses.iter().map(|witness| witness.snapshot.as_str());
        let log_identity = LogIdentity::read(&snapshot, &settings.database.changes.schema, seen).await?;
        let identity = probed.server.identity;
        let log =
            FamilyLog { snapshot: &snapshot, tileset_run: &tileset_run.with_settings(conditioned), cursor: &cursor };
        let watches = log.watches(&database, &probed.layers).await?;
        // Reasons why the log itself cannot be used are reported first.
        match compare(record.database.as_ref(), &identity, log_identity.as_ref().map(LogIdentity::key)) {
            Ok(SameDatabase::Yes) => {}
            Ok(SameDatabase::Unsaid | SameDatabase::OtherKey) => return Ok(None),
            Err(why) => return Err(needs_seed(&tileset_run.target, why)),
        }
        if log_identity.as_ref().is_some_and(|log| log.contradicts(&record.witnesses)) {
            return Err(CommandError::OtherHistory { target: tileset_run.target.to_string() });
        }
        let is_vouched = |witness: &&Witness| log_identity.as_ref()?.vouches(witness);
        let vouched = record.witnesses.iter().filter(|witness| is_vouched(witness) == Some(true));
        let vouched = vouched.filter_map(|witness| witness.snapshot.parse().ok()).collect();
        let scope = FamilyScope::of(settings, &whole);
        let Some(places) = log.places(&watches, &probed.layers, &scope).await? else { return Ok(None) };
        let mut members = BTreeSet::new();
        for (index, places) in &places.layers {
            let (layer, settings) = (&whole[*index], &settings.tileset.layers[*index]);
            let Some(sql) = family.condition(layer.name()) else { return Ok(None) };
            let name = match &settings.rows {
                Rows::Relation { table, .. } => table,
                Rows::Query(_) => &settings.name,
            };
            let boxes: Vec<WorldBox> = places.boxes.iter().copied().collect();
            let rows = PlacedRows { layer, name, places: &boxes };
            match members_at(&snapshot, rows, FamilyCondition { sql, table }).await? {
                Some(mut found) => members.append(&mut found),
                None => return Ok(None),
            }
        }
        snapshot.check_partitions(&probed.reads).await?;
        tracing::debug!("{} places have changed, at which {} variants have rows", places.len(), members.len());
        Ok(Some(FamilyLook {
            cursor,
            layers: probed.layers,
            identity,
            log: log_identity,
            vouched,
            reads: probed.reads,
            places,
            members,
        }))
    }

    /// True if no row has changed where it is drawn.
    pub(crate) fn is_without_changes(&self) -> bool {
        self.places.layers.is_empty()
    }

    /// Whether the changes concern the target of a variant. Reads the target, so it may wait for a server.
    pub(crate) fn state_of(&self, number: usize, settings: &Settings, target: &Target) -> VariantState {
        if self.members.contains(&number) {
            return VariantState::Unknown;
        }
        let untouched = self.untouched(settings, target);
        untouched.map_or(VariantState::Unknown, VariantState::Untouched)
    }

    /// The target, if no change concerns it.
    fn untouched(&self, settings: &Settings, target: &Target) -> Option<UntouchedVariant> {
        let state = TargetState::read(target).ok()?;
        let manifest = &state.manifest;
        let tileset = &settings.tileset;
        let is_whole = state.unrendered.is_empty()
            && !state.needs_repair()
            && manifest.kept.is_empty()
            && state.partial.regions().is_empty()
            && manifest.zooms == tileset.zooms.to_string()
            && manifest.bbox == area_texts(&tileset.bbox);
        if !is_whole || state.is_readdressed(settings, target) || !state.cursor.sees_all_of(&self.cursor) {
            return None;
        }
        let fingerprint = fingerprint(settings, &self.layers);
        let fits = state.fits(target, &self.identity, self.log.as_ref(), &fingerprint, &self.reads);
        // The history of a state is also that of all states before it.
        let is_vouched = |witness: &Witness| {
            let seen: Option<Cursor> = witness.snapshot.parse().ok();
            seen.is_some_and(|seen| self.vouched.iter().any(|vouched| vouched.sees_all_of(&seen)))
        };
        if fits.ok()? != SameDatabase::Yes
            || !state.witnesses.iter().all(is_vouched)
            || self.places.may_show(&self.layers, target)?
        {
            return None;
        }
        let dead = state.described.dead;
        state.manifest.publication.map(|publication| UntouchedVariant { publication: publication.id, dead })
    }
}

/// The change log since the state that the family has seen.
struct FamilyLog<'a> {
    snapshot: &'a Arc<Snapshot>,
    tileset_run: &'a TilesetRun,
    cursor: &'a Cursor,
}

impl FamilyLog<'_> {
    async fn watches(
        &self,
        database: &crate::postgis::Database,
        layers: &[Arc<Layer>],
    ) -> Result<Vec<Vec<Watch>>, CommandError> {
        let settings = &self.tileset_run.settings;
        let schema = &settings.database.changes.schema;
        let watches = tracked(database, self.snapshot, schema, None, layers, self.cursor).await;
        watches.map_err(|error| match error {
            change_log::ChangeLogError::LogGap(why) => self.untracked(why),
            other => other.into(),
        })
    }

    fn untracked(&self, why: LogGap) -> CommandError {
        CommandError::LogGap { target: self.tileset_run.target.to_string(), why }
    }

    /// The places of all changes; `None` if a change may concern every variant, or there are too many.
    async fn places(
        &self,
        watches: &[Vec<Watch>],
        layers: &[Arc<Layer>],
        scope: &FamilyScope,
    ) -> Result<Option<ChangedPlaces>, CommandError> {
        let schema = &self.tileset_run.settings.database.changes.schema;
        let log = UnseenLog { snapshot: self.snapshot, schema, cursor: self.cursor };
        let changes = log.changes().await?;
        let mut found = ChangedPlaces::default();
        for (index, (layer, watches)) in layers.iter().zip(watches).enumerate() {
            for (watch, changed) in watches.iter().filter_map(|watch| Some((watch, changes.of(watch)?))) {
                let add = |spot: ChangeLocation| {
                    let fits = found.add(scope, index, spot.world());
                    if fits { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                };
                // Each row has one or two places.
                if changed.rows > MAX_PLACES as u64 || !log.positions(watch, layer, add).await? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(found))
    }
}

/// Finds the tiles that show whether a target has a row at a place.
struct FamilyScope {
    tiles: Dirty,
    drawn: Vec<DrawnLayer>,
    /// For each layer, the layer whose tiles show all of its rows as points; `None` if there is none.
    shown_by: Vec<Option<usize>>,
}

impl FamilyScope {
    /// `layers` are those without the conditions of variants.
    fn of(settings: &Settings, layers: &[Arc<Layer>]) -> FamilyScope {
        let tileset = &settings.tileset;
        let is_suited = |layer: &Layer| layer.traits().shows_all_points() && layer.is_found_by_area();
        // A layer that is drawn in several ways has the same rows at all zooms.
        let shows = |layer: &Layer| {
            layers.iter().position(|other| other.id() == layer.id() && is_suited(other) && other.has_rows_of(layer))
        };
        FamilyScope {
            tiles: Dirty::new(&[tileset.scope()], usize::MAX),
            drawn: layers.iter().map(|layer| drawn(layer)).collect(),
            shown_by: layers.iter().map(|layer| shows(layer)).collect(),
        }
    }

    /// The tiles in which a row at `place` shows. They are of the deepest zoom at which all of these tiles belong to
    /// the family; `None` if there is no such zoom.
    fn tiles_of(&self, layer: usize, place: WorldBox) -> Option<Vec<TileRect>> {
        let drawn = &self.drawn[layer];
        let zooms = self.tiles.zooms().into_iter().rev().filter(|zoom| drawn.zooms.contains(*zoom));
        let touched = |zoom: Zoom| {
            let (first, second) = touched_tiles(zoom, drawn.margin.units(zoom), place);
            let rects: Vec<TileRect> = std::iter::once(first).chain(second).collect();
            let tiles: u64 = rects.iter().map(TileRect::tiles).sum();
            let holds_all =
                tiles <= MAX_TILES_OF_PLACE && rects.iter().flat_map(TileRect::iter).all(|tile| self.tiles.holds(tile));
            holds_all.then_some(rects)
        };
        zooms.into_iter().find_map(touched)
    }
}

impl ChangedPlaces {
    /// Adds the place of a change in a layer. False if the change may concern every variant, or if there are too many
    /// places.
    fn add(&mut self, scope: &FamilyScope, layer: usize, place: WorldBox) -> bool {
        let drawn = &scope.drawn[layer].zooms;
        if !scope.tiles.zooms().iter().any(|zoom| drawn.contains(*zoom)) {
            // The layer is not drawn.
            return true;
        }
        let Some(layer) = scope.shown_by[layer] else { return false };
        let own = self.layers.entry(layer).or_default();
        if !own.boxes.insert(place) {
            return true;
        }
        if own.boxes.len() > MAX_PLACES {
            return false;
        }
        let Some(rects) = scope.tiles_of(layer, place) else { return false };
        let is_position = place.is_position() && rects.len() == 1;
        for tile in rects.iter().flat_map(TileRect::iter) {
            let in_tile = own.tiles.entry(tile).or_default();
            if is_position {
                in_tile.positions.insert([place.west, place.north]);
            } else {
                in_tile.has_boxes = true;
            }
        }
        true
    }

    fn len(&self) -> usize {
        self.layers.values().map(|places| places.boxes.len()).sum()
    }

    /// True if a target may show a row at one of the places; `None` if it cannot be read.
    fn may_show(&self, layers: &[Arc<Layer>], target: &Target) -> Option<bool> {
        if self.layers.values().all(|places| places.tiles.is_empty()) {
            return Some(false);
        }
        let mut reader = target.reader().ok()?;
        let apart = reader.template().layers_apart();
        let mut unpacker = Unpacker::new(reader.describe().ok()?.format);
        for (index, places) in &self.layers {
            let layer = &layers[*index];
            let slice = if apart { Slice::Layer(layer.id()) } else { Slice::Whole };
            let ids: Vec<TileId> = places.tiles.keys().map(|coord| TileId { coord: *coord, slice }).collect();
            let mut shows = false;
            read_all(&mut *reader, &ids, |id, bytes| {
                let (Some(bytes), Some(places), false) = (bytes, places.tiles.get(&id.coord), shows) else {
                    return Ok(());
                };
                let positions = places.positions.iter().copied();
                shows = places.has_boxes
                    || unpacker
                        .mvt(&bytes)
                        .map_or(true, |raw| may_show(&raw, id.coord, layer.name(), layer.margin(), positions));
                Ok::<(), crate::target::ReadError>(())
            })
            .ok()?;
            if shows {
                return Some(true);
            }
        }
        Some(false)
    }
}

// Tells families with the same name apart, so that one does not replace the other.

/// Hashes of what the configuration says about the variants. Two families with the same name and output differ in these
/// hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FamilySettingsMark {
    pub(crate) conditions: String,
    /// The hash of the values: of the query, or of the list.
    pub values: String,
}

/// Why a record belongs to another family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherFamily {
    /// Its variants have another output.
    Output,
    Conditions,
    /// Its values have another source, and none of its variants is among those of `now`.
    Values,
}

impl StoredFamily {
    /// Why the record belongs to another family than `now`; `None` if it belongs to the same family.
    pub(crate) fn differs_from(&self, now: &FamilyRecord) -> Option<OtherFamily> {
        let before = &self.record;
        if !before.output.is_empty() && before.output != now.output {
            return Some(OtherFamily::Output);
        }
        let (before_settings, settings) = before.settings.as_ref().zip(now.settings.as_ref())?;
        let standing = || before.variants.iter().filter(|variant| !variant.vanished);
        let all_now: HashSet<_> = now.variants.iter().map(|variant| &variant.segments).collect();
        let is_among = |variant: &RecordedVariant| all_now.contains(&variant.segments);
        // After an edit of the list or the query, some of the values are still there.
        let has_some = standing().next().is_none() || standing().any(is_among);
        if before_settings.values != settings.values && !has_some {
            return Some(OtherFamily::Values);
        }
        (before_settings.conditions != settings.conditions).then_some(OtherFamily::Conditions)
    }
}

impl Family {
    /// Hashes of the values and conditions in the configuration, as the manifest contains them.
    pub(crate) fn settings_mark(&self) -> FamilySettingsMark {
        let of = |parts: &mut dyn Iterator<Item = &str>| {
            let mut hash = Md5::new();
            for part in parts {
                hash.update(part);
                hash.update("\0");
            }
            hex(hash.finalize())
        };
        let mut conditions: Vec<_> = self.variants.conditions.iter().collect();
        conditions.sort_by_key(|condition| &condition.layer);
        let mut conditions = conditions.iter().flat_map(|condition| [condition.layer.as_str(), condition.sql.as_str()]);
        FamilySettingsMark {
            conditions: of(&mut conditions),
            values: match &self.variants.values {
                VariantValues::Query(query) => of(&mut std::iter::once(query.definition().as_str())),
                VariantValues::Listed(table) => of(&mut table.rows.iter().flatten().map(String::as_str)),
            },
        }
    }

    /// The error that another family's manifest lies where this family's manifest belongs.
    pub(crate) fn is_another(&self, what: OtherFamily, other: &FamilyRecord) -> ConfigError {
        let key = match what {
            OtherFamily::Output => "output",
            OtherFamily::Conditions => "where",
            OtherFamily::Values => "values",
        };
        let output = self.output();
        let what = match what {
            OtherFamily::Output => format!(
                "is {output}, and beside it lies the manifest of a family of the same name whose variants go to {}: give this tileset another name or folder, or seed with --force, which forgets the others and leaves their targets as they are",
                other.output
            ),
            OtherFamily::Conditions => format!(
                "differs from that with which the variants of the same name in {output} were seeded: if you have changed it, run seed with --force, which makes each of them anew; otherwise give this tileset another name or folder"
            ),
            OtherFamily::Values => format!(
                "differs from that with which the {} variants of the same name in {output} were seeded, and gives none of them: give this tileset another name or folder, or seed with --force, which forgets the others and leaves their targets as they are",
                other.variants.iter().filter(|variant| !variant.vanished).count()
            ),
        };
        ConfigError::Variants { key: format!("tileset.variants.{key}"), what }
    }
}
