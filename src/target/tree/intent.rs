//! Intents: what runs have begun to change in a synchronized target. A run notes its intent before it changes the first
//! tile, and removes it after it has written the manifest.
//!
//! Within the scope of an intent, tiles may come from the interrupted run although the manifest is older. Readers
//! return the intents ([`Described::unfinished`](crate::target::Described)); `run/target/mod.rs` decides what they mean
//! for a reseed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::notes::{fingerprint, regions};
use crate::clock::{moment, seconds_now};
use crate::manifest::Region;
use crate::target::{RunKind, Tileset, Unwritten};
use crate::tile::{Coverage, Scope, TileId, TileRectList, ZoomList, area_for_people, area_texts};

/// A run that has begun to change a target and has not finished: it is under way, or was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub run: IntentKind,
    pub fingerprint: String,
    /// A hash that identifies the database and the tables that it reads, if it reads any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// The zooms that it may change, as a list such as `0-14`.
    pub zooms: String,
    /// The boxes that it may change, each `west,south,east,north`; none for the whole world.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bbox: Vec<String>,
    /// The tiles that it may change; `None` if it may change all tiles of its zooms and boxes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TileRectList>,
    /// The snapshots that its tiles show, and those of the same run's earlier attempts, as `pg_current_snapshot()`
    /// gives them. Another run may have brought the target to a later state since they were taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<String>,
    /// When it began, in seconds since 1970 (UTC); 0 if that is not known.
    #[serde(default)]
    pub began: u64,
}

/// The kind of an unfinished run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntentKind {
    /// It renders all tiles of its scope.
    Seed,
    /// It renders tiles that changed.
    Reseed,
    Copy,
    /// A finished run of another configuration or version. Some of its tiles stay, outside of the scope of the run that
    /// replaced its manifest.
    Replaced,
    /// A run of an older version of the program, which noted only its fingerprint.
    Unknown,
}

impl Intent {
    pub(crate) fn of(tileset: &Tileset) -> Intent {
        let (run, database, snapshots) = match &tileset.run {
            RunKind::Seed { database, snapshot } => (IntentKind::Seed, Some(database.clone()), vec![snapshot.clone()]),
            // It renders what changed since the manifest that it finds under the lock.
            RunKind::Reseed { database, .. } => (IntentKind::Reseed, Some(database.clone()), Vec::new()),
            RunKind::Copy => (IntentKind::Copy, None, Vec::new()),
        };
        let Scope { zooms, coverage } = &tileset.scope;
        let parts = if coverage.is_world() { &[] } else { coverage.parts() };
        Intent {
            run,
            fingerprint: tileset.fingerprint.clone(),
            database,
            zooms: zooms.to_string(),
            bbox: area_texts(parts),
            tiles: tileset.dirty.clone().filter(|_| tileset.unwritten == Unwritten::Keep),
            snapshots,
            began: seconds_now(),
        }
    }

    /// The intent for tiles that a finished run wrote to a region which the next manifest does not speak for.
    pub(crate) fn replaced(fingerprint: &str, region: Region) -> Intent {
        let (zooms, bbox) = (region.zooms, region.bbox);
        Intent { zooms, bbox, ..Intent::nameless(IntentKind::Replaced, fingerprint) }
    }

    /// The intent of a run for which only the fingerprint is known.
    pub(crate) fn unknown(fingerprint: &str) -> Intent {
        Intent::nameless(IntentKind::Unknown, fingerprint)
    }

    fn nameless(run: IntentKind, fingerprint: &str) -> Intent {
        let zooms = ZoomList::all().to_string();
        Intent {
            run,
            fingerprint: fingerprint.to_owned(),
            database: None,
            zooms,
            bbox: Vec::new(),
            tiles: None,
            snapshots: Vec::new(),
            began: 0,
        }
    }

    /// The tiles that the run may have changed: all tiles if the note's scope cannot be parsed.
    pub fn scope(&self) -> Scope {
        let everything = || Scope { zooms: ZoomList::all(), coverage: Coverage::new(&[]) };
        Scope::read(&self.zooms, &self.bbox).unwrap_or_else(|_error| everything())
    }

    /// True if both are the same except for their time and their snapshots.
    fn is_again(&self, other: &Intent) -> bool {
        let timeless = |intent: &Intent| Intent { began: 0, snapshots: Vec::new(), ..intent.clone() };
        timeless(self) == timeless(other)
    }
}

/// Such as "a seed of zooms 0-8 that began 2026-11-22T18:00:00Z".
impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.run {
            IntentKind::Seed => "a seed",
            IntentKind::Reseed => "a reseed",
            IntentKind::Copy => "a copy",
            IntentKind::Replaced => "a replaced tileset",
            IntentKind::Unknown => "a run of an older oar-tiles",
        })?;
        write!(f, " of zooms {}", self.zooms)?;
        if !self.bbox.is_empty() {
            write!(f, " in {}", area_for_people(&self.bbox))?;
        }
        if self.began > 0 {
            write!(f, " that began {}", moment(self.began))?;
        }
        Ok(())
    }
}

/// Adds an intent. If an intent differs only in its time and its snapshots, the new one replaces it and takes over its
/// snapshots.
fn add(intents: &mut Vec<Intent>, mut intent: Intent) {
    let again = intents.iter().filter(|other| other.is_again(&intent));
    let snapshots: Vec<String> = again.flat_map(|other| other.snapshots.clone()).collect();
    intents.retain(|other| !other.is_again(&intent));
    let new = snapshots.into_iter().filter(|snapshot| !intent.snapshots.contains(snapshot));
    let new: Vec<String> = new.collect();
    intent.snapshots.splice(0..0, new);
    intents.push(intent);
}

/// The intents of a target while a run changes it: those noted before its first tile, and those that stay noted after
/// its manifest.
#[derive(Debug)]
pub(crate) struct OpenIntents {
    /// The intents to note before the first tile: those that were there, and the run's own.
    pub(crate) noted: Vec<Intent>,
    scope: Scope,
    others: Vec<OtherIntent>,
}

/// The intent of another run.
#[derive(Debug)]
struct OtherIntent {
    intent: Intent,
    scope: Scope,
    /// True if it stays noted once this run has finished.
    stays: bool,
}

impl OpenIntents {
    /// The intents of a run of `tileset`. `unfinished` are those that the target has, `manifest` is its manifest as
    /// JSON. `continues` is true if the next manifest will go on to speak for regions outside of the run's scope,
    /// because they are of the same tileset.
    pub(crate) fn begin(
        tileset: &Tileset,
        unfinished: Vec<Intent>,
        manifest: Option<&str>,
        continues: bool,
    ) -> OpenIntents {
        let (mut others, mut kept) = (unfinished, Vec::new());
        let regions = manifest.map_or_else(Vec::new, regions);
        match (tileset.unwritten, manifest.and_then(fingerprint)) {
            (Unwritten::Delete, Some(fingerprint)) if !continues => {
                for region in regions {
                    add(&mut others, Intent::replaced(&fingerprint, region));
                }
            }
            _ => kept.extend(regions.iter().filter_map(|region| Scope::read(&region.zooms, &region.bbox).ok())),
        }
        let mut noted = others.clone();
        add(&mut noted, Intent::of(tileset));
        let stays = |of: &Scope| match tileset.run {
            RunKind::Reseed { complete, .. } => !complete,
            // Outside of this run's scope, the interrupted run may have changed or deleted tiles that the next manifest
            // speaks for.
            RunKind::Seed { .. } | RunKind::Copy => kept.iter().any(|kept| of.meets_beyond(kept, &tileset.scope)),
        };
        let others = others.into_iter().map(|intent| {
            let scope = intent.scope();
            OtherIntent { stays: stays(&scope), scope, intent }
        });
        OpenIntents { noted, scope: tileset.scope.clone(), others: others.collect() }
    }

    /// The intents of a run that writes a new version: it changes no existing tile, so all other intents stay.
    pub(crate) fn untouched(tileset: &Tileset, unfinished: Vec<Intent>) -> OpenIntents {
        let noted = unfinished.clone();
        let others = unfinished.into_iter().map(|intent| OtherIntent { scope: intent.scope(), intent, stays: true });
        OpenIntents { noted, scope: tileset.scope.clone(), others: others.collect() }
    }

    /// Must be called for each tile that the target holds. A tile outside of the run's scope stays, so the intents of
    /// the runs that may have written it stay, too.
    pub(crate) fn see(&mut self, id: TileId) {
        if self.others.iter().all(|other| other.stays) || self.scope.holds(id) {
            return;
        }
        for other in &mut self.others {
            other.stays = other.stays || other.scope.holds(id);
        }
    }

    /// The intents that stay noted once the run has finished.
    pub(crate) fn left(&self) -> Vec<Intent> {
        self.others.iter().filter(|other| other.stays).map(|other| other.intent.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileCoord, Zoom};

    fn scope(zooms: &str, bbox: &[&str]) -> Scope {
        Scope::read(zooms, &bbox.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn tileset(zooms: &str, bbox: &[&str]) -> Tileset {
        Tileset::of_test(scope(zooms, bbox), Unwritten::Delete)
    }

    fn seed(zooms: &str, bbox: &[&str]) -> Intent {
        Intent { began: 1_795_370_400, ..Intent::of(&tileset(zooms, bbox)) }
    }

    fn tile(zoom: u8, x: u32, y: u32) -> TileId {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap().into()
    }

    #[test]
    fn an_intent_is_read_back_with_its_scope_and_names_itself() {
        for (zooms, bbox, text) in [
            ("0-8", &[][..], "a seed of zooms 0-8 that began 2026-11-22T18:00:00Z"),
            ("3", &["1,2,3,4.5"], "a seed of zooms 3 in the box 1,2,3,4.5 that began 2026-11-22T18:00:00Z"),
            (
                "0-2,5",
                &["170,-5,-170,5"],
                "a seed of zooms 0-2,5 in the boxes 170,-5,180,5 and -180,-5,-170,5 that began 2026-11-22T18:00:00Z",
            ),
        ] {
            let intent = seed(zooms, bbox);
            assert_eq!(intent.to_string(), text);
            let back: Intent = serde_json::from_str(&serde_json::to_string(&intent).unwrap()).unwrap();
            assert_eq!(back, intent);
            let (there, here) = (back.scope(), scope(zooms, bbox));
            assert!(there.is_within(std::slice::from_ref(&here)) && here.is_within(&[there]));
        }
        let older = Intent::unknown("f");
        assert_eq!(older.to_string(), "a run of an older oar-tiles of zooms 0-22");
        let odd = Intent { zooms: "deep".to_owned(), ..older };
        assert!(odd.scope().holds(tile(22, 0, 0)), "what cannot be read may be anything");
    }

    #[test]
    fn a_scope_lies_within_others_zoom_by_zoom_and_box_by_box() {
        for (inner, outer, within) in [
            (scope("0-8", &[]), vec![scope("0-8", &[])], true),
            (scope("0-8", &[]), vec![scope("0-4", &[]), scope("5-9", &[])], true),
            (scope("0-8", &[]), vec![scope("0-4", &[]), scope("6-9", &[])], false),
            (scope("5", &["1,1,2,2"]), vec![scope("0-9", &["0,0,9,9"])], true),
            (scope("9", &["0,0,20,20"]), vec![scope("0-9", &["0,0,9,9"])], false),
            (scope("9", &["170,-5,-170,5"]), vec![scope("0-9", &["160,-9,-160,9"])], true),
        ] {
            assert_eq!(inner.is_within(&outer), within, "{inner:?} {outer:?}");
        }
    }

    #[test]
    fn an_intent_stays_as_long_as_its_tiles_lie_beyond_the_run_or_it_touched_what_is_kept() {
        let wide = [seed("0-8", &[])];
        let manifest = |zooms: &str| format!("{{\"fingerprint\":\"f\",\"zooms\":\"{zooms}\",\"bbox\":[]}}");
        let left = |zooms: &str, kept: &str, continues: bool, tiles: &[TileId]| {
            let run = tileset(zooms, &[]);
            let mut open = OpenIntents::begin(&run, wide.to_vec(), Some(&manifest(kept)), continues);
            assert_eq!(open.noted.last().map(|intent| intent.zooms.clone()), Some(zooms.to_owned()));
            for tile in tiles {
                open.see(*tile);
            }
            open.left().iter().map(|intent| format!("{:?} {}", intent.run, intent.zooms)).collect::<Vec<_>>()
        };
        let none: &[&str] = &[];
        assert_eq!(left("0-4", "0-4", true, &[tile(4, 1, 1)]), none, "it has come no farther");
        assert_eq!(left("0-4", "0-4", true, &[tile(5, 1, 1)]), ["Seed 0-8"]);
        assert_eq!(left("0-4", "0-4", true, &[tile(9, 1, 1)]), none, "that is not its tile");
        assert_eq!(left("0-4", "0-8", true, &[]), ["Seed 0-8"], "it may have deleted what is kept");
        assert_eq!(left("0-4", "0-4,9", true, &[]), none);
        assert_eq!(left("0-8", "0-8", true, &[tile(5, 1, 1)]), none);
        assert_eq!(left("0-8", "0-9", false, &[tile(9, 1, 1)]), ["Replaced 0-9"], "nothing speaks for it any more");
        let reseed = |complete| Tileset {
            unwritten: Unwritten::Keep,
            run: RunKind::Reseed { database: "d".to_owned(), complete, max_dead_percent: Some(30) },
            ..tileset("0-4", &[])
        };
        assert_eq!(OpenIntents::begin(&reseed(true), wide.to_vec(), Some(&manifest("0-4")), true).left(), []);
        assert_eq!(OpenIntents::begin(&reseed(false), wide.to_vec(), Some(&manifest("0-4")), true).left(), wide);
        let version = OpenIntents::untouched(&tileset("0-9", &[]), wide.to_vec());
        assert_eq!((&version.noted[..], &version.left()[..]), (&wide[..], &wide[..]));
        let mut intents = wide.to_vec();
        add(&mut intents, Intent { began: 7, snapshots: vec!["4:4:".to_owned()], ..seed("0-8", &[]) });
        assert_eq!(intents.len(), 1, "the same run again");
        assert_eq!(intents[0].snapshots, ["5:5:", "4:4:"], "tiles of both may be there");
        add(&mut intents, seed("0-9", &[]));
        assert_eq!(intents.len(), 2);
    }
}
