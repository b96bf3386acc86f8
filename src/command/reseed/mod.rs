//! `oar-tiles reseed`: render what changed since the target's snapshot, and nothing else.
//!
//! | file | what |
//! |---|---|
//! | `known` | the target's manifest, and whether it fits the database and the settings |
//! | `changed` | which tiles are dirty, and why |
//! | `given` | tiles and areas that the user names |
//! | `manifest` | what a reseed tells its target |
//! | `patches` | which layers can be patched where they have changed |
//! | `run` | the dirty tiles rendered and handed to the target |
//! | `touched` | the dirty tiles as a file |
//! | `watch` | again and again |

mod changed;
mod counts;
mod given;
mod known;
mod manifest;
mod patches;
mod run;
mod sources;
pub(super) mod touched;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use super::seed::{self, SeedOptions, writable};
use super::target::{Place, Reach};
use super::{CommandError, budgets};
use crate::changes::{Cursor, WatchOptions};
use crate::config::{Settings, TilesetSettings};
use crate::report::{
    BehindTarget, DirtyReport, Event, Report, ReseedReport, print, render_dirty, render_reseed, render_run,
};
use crate::sink::ChangedTiles;
use crate::stop::Stop;
use crate::tile::{LonLatBox, Order, ZoomList};

use changed::Work;
use known::Known;

pub use given::{TileList, TileListError, area};

/// What `reseed` is to render.
#[derive(Debug, Clone, Default)]
pub enum What {
    /// What the change log has noted since the target's snapshot.
    #[default]
    Log,
    /// The tiles of a list.
    Tiles(TileList),
    /// The tiles that some boxes touch.
    Area(Vec<LonLatBox>),
}

/// What `reseed` was asked for, beside the settings.
#[expect(clippy::struct_excessive_bools, reason = "flags, each by itself")]
#[derive(Debug, Clone, Default)]
pub struct ReseedOptions {
    /// What to render.
    pub what: What,
    /// Look for changes since this snapshot instead of the target's.
    pub since: Option<Cursor>,
    /// Only these zooms; the target's snapshot stays then.
    pub zoom: Option<ZoomList>,
    /// Only these boxes; the target's snapshot stays then.
    pub bbox: Vec<LonLatBox>,
    /// Say what would be done, and write nothing.
    pub dry_run: bool,
    /// Seed the target where it needs it.
    pub or_seed: bool,
    /// Where to write the tiles touched.
    pub dirty_out: Option<PathBuf>,
    /// Where to write the tiles that changed.
    pub changed_out: Option<PathBuf>,
    /// Where to write the closing table as JSON.
    pub report: Option<PathBuf>,
    /// Print the closing table.
    pub table: bool,
    /// Stay, and reseed at each change.
    pub watch: Option<WatchOptions>,
    /// The warnings about the role were given before, by an earlier look of the same watch.
    pub has_warned: bool,
}

/// How a reseed ended.
pub(super) enum Outcome {
    /// Nothing had changed.
    Nothing,
    /// This would be done.
    Planned(DirtyReport),
    /// This was done.
    Done(Box<ReseedReport>),
    /// The target was seeded.
    Seeded(Box<crate::report::RunReport>),
}

/// Runs `reseed`.
///
/// # Errors
/// If the target needs a full seed, or anything at all is missing from the result; the target's manifest is the old one then.
pub async fn reseed(
    settings: &Settings,
    options: &ReseedOptions,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<(), CommandError> {
    if let Some(path) = &options.report {
        writable(path, &settings.tileset.output)?;
    }
    if let Some(path) = &options.dirty_out {
        writable(path, &settings.tileset.output).map_err(|error| match error {
            CommandError::NoReport { path, source } => CommandError::NoTileList { path, source },
            other => other,
        })?;
    }
    touched::can_write_changed(options.changed_out.as_deref(), &settings.tileset.output)?;
    if let Some(how) = options.watch {
        return Box::pin(watch::watch(settings, options, how, report, stop)).await;
    }
    let outcome = Box::pin(once(settings, options, report, stop)).await?;
    let to_seed = SeedOptions { report: options.report.clone(), table: options.table, ..SeedOptions::default() };
    match outcome {
        Outcome::Nothing => {
            if let Some(path) = &options.dirty_out {
                touched::write(path, &[])?;
            }
            touched::write_unchanged(options.changed_out.as_deref())?;
            let nothing = ReseedReport::nothing(settings.tileset.output.display().to_string());
            seed::close(&to_seed, &render_reseed(&nothing), serde_json::to_vec_pretty(&nothing))
        }
        Outcome::Planned(plan) => seed::close(&to_seed, &render_dirty(&plan), serde_json::to_vec_pretty(&plan)),
        Outcome::Done(done) => {
            seed::close(&to_seed, &render_reseed(&done), serde_json::to_vec_pretty(&*done))?;
            budgets::complete(&done.output, &done.failed)
        }
        Outcome::Seeded(done) => {
            seed::close(&to_seed, &render_run(&done), serde_json::to_vec_pretty(&*done))?;
            budgets::complete(&done.output, &done.failed)
        }
    }
}

/// How far a target is behind.
pub(super) async fn behind(
    settings: &Settings,
    place: &Place,
    reach: &Reach,
    stop: &Stop,
) -> Result<BehindTarget, CommandError> {
    let options = ReseedOptions { dry_run: true, ..ReseedOptions::default() };
    let target = place.to_string();
    let (reasons, dirty) = match run::look(settings, &options, (place, reach), stop).await? {
        Work::Nothing => (Vec::new(), Some(0)),
        Work::Some(changed) => (changed.reasons, Some(changed.dirty.len() as u64)),
        Work::All(reasons) => (reasons, None),
    };
    let (at, reading) = (place.clone(), reach.clone());
    let described = seed::aside(move || Ok::<_, CommandError>(reading.reader(&at)?.describe()?)).await??;
    let unfinished = described.unfinished.iter().map(ToString::to_string).collect();
    Ok(BehindTarget { target, needs_seed: None, reasons, dirty, unfinished })
}

/// What a target has seen of the database, as it says itself. May wait for a server.
pub(super) fn cursor_of(place: &Place, reach: &Reach) -> Result<Cursor, CommandError> {
    Ok(Known::read(place, reach)?.cursor)
}

/// One reseed, with its restarts.
async fn once(
    settings: &Settings,
    options: &ReseedOptions,
    report: &Arc<dyn Report>,
    stop: &Stop,
) -> Result<Outcome, CommandError> {
    let place = Place::parse(&settings.tileset.output.to_string_lossy())?;
    let reach = Reach::new(settings, false, stop);
    let attempt =
        async |restarts| Box::pin(run::attempt(settings, options, (&place, &reach), restarts, report, stop)).await;
    let ended =
        Box::pin(seed::restarting(settings, report, stop, attempt)).await.map_err(|error| seed::in_line(error, &place));
    match ended {
        Err(error) if options.or_seed && !options.dry_run && error.needs_seed() => {
            let why = match &error {
                CommandError::NeedsSeed { place, why } => format!("{place} needs a full seed: {why}"),
                other => other.to_string(),
            };
            report.event(&Event::Warning { message: format!("{why}: seeding it") });
            // The zooms and boxes stay those of the target, unless the flags say otherwise.
            let all = if options.zoom.is_none() && options.bbox.is_empty() {
                let (at, reading, settings) = (place.clone(), reach.clone(), settings.clone());
                let known = seed::reading(stop, move || {
                    Known::read(&at, &reading).map(|known| known.settings_to_seed(&settings, &at, &reading))
                });
                match known.await {
                    Err(CommandError::Interrupted(signal)) => return Err(CommandError::Interrupted(signal)),
                    Ok(known) => known?,
                    // What cannot be read is seeded as the settings say.
                    Err(_unreadable) => Vec::new(),
                }
            } else {
                Vec::new()
            };
            let all = if all.is_empty() { vec![settings.clone()] } else { all };
            // Before the first tile: a seed that fails half-way may have changed any of them.
            touched::write_everything(options.dirty_out.as_deref(), &together(&all, settings))?;
            // Of several seeds each changes tiles that another may have changed already.
            let (changed_out, is_alone) = (options.changed_out.as_deref(), all.len() == 1);
            let tileset = together(&all, settings);
            let mut seeded = None;
            for mut settings in all {
                if !reach.packed(&place) {
                    settings.limits.packing = crate::encode::Packing::Plain;
                }
                let changed_out = changed_out.filter(|_| is_alone);
                seeded = Some(seed::seeded(&settings, (&place, &reach), changed_out, report, stop).await?);
            }
            if !is_alone {
                let mut changed = ChangedTiles::new(Order::ZoomColumnTmsRow);
                changed.declare_everything("parts of the target were seeded one after the other");
                touched::write_changed(changed_out, Some(&changed), &tileset)?;
            }
            Ok(seeded.map_or(Outcome::Nothing, |done| Outcome::Seeded(Box::new(done))))
        }
        ended => ended,
    }
}

/// The tileset of several seeds: all of their zooms, in the boxes that they have in common, or the whole world.
fn together(all: &[Settings], settings: &Settings) -> TilesetSettings {
    let zooms = ZoomList::of(all.iter().flat_map(|one| one.tileset.zooms.iter()));
    let mut boxes = all.iter().map(|one| &one.tileset.bbox);
    let first = boxes.next().cloned().unwrap_or_default();
    let bbox = if boxes.all(|others| *others == first) { first } else { Vec::new() };
    let tileset = settings.tileset.clone();
    TilesetSettings { zooms: zooms.unwrap_or_else(|| tileset.zooms.clone()), bbox, ..tileset }
}

/// Whether a reseed could render every tile.
fn complete(outcome: &Outcome) -> Result<(), CommandError> {
    match outcome {
        Outcome::Nothing | Outcome::Planned(_) => Ok(()),
        Outcome::Done(done) => budgets::complete(&done.output, &done.failed),
        Outcome::Seeded(done) => budgets::complete(&done.output, &done.failed),
    }
}

/// Says that a reseed is done, in the words of a watch.
fn told(outcome: &Outcome) -> Result<(), CommandError> {
    match outcome {
        Outcome::Nothing | Outcome::Planned(_) => Ok(()),
        Outcome::Done(done) => Ok(print(&render_reseed(done))?),
        Outcome::Seeded(done) => Ok(print(&render_run(done))?),
    }
}
