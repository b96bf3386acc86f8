//! Families: the variants of a tileset, which one configuration makes, and what a family keeps next to its outputs.
//!
//! | file | what |
//! |---|---|
//! | `part` | a seed of some variants, which adds to the manifest |
//! | `look` | tells families with the same name apart; which variants a change may concern |
//! | `cache` | the rows of all variants, read once |
//! | `sessions` | without cached rows: sessions that draw one variant after the other |
//! | `run` | a run of a family: it begins with the values, and ends with the manifest; what a run has done so far |
//! | `record` | the family's own manifest: its variants, and the state of the database that they show; the deletion of a variant whose value has vanished |
//!
//! Three types let targets share rows, and differ in what is shared. `SharedRows` (`run/shared_rows`) keeps the rows of
//! a layer for the other tilesets of a command; [`FamilyCache`] reads through it, and adds to all rows of a family
//! which of them each variant has; [`FamilySessions`] share no rows, but the probe and locked sessions, one variant at
//! a time.

mod cache;
mod look;
mod part;
mod record;
mod run;
mod sessions;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::target::needs_seed;
use super::{CommandError, SeveralError, Target, TilesetRun, blocking_read, restarting};
use crate::config::{ConfigError, Settings, ValueSegment, VariantSettings, VariantValues};
use crate::error::ErrorKind;
use crate::postgis::{Layer, Snapshot, VariantParameter, VariantTable, bound_condition, variant_table};
use crate::report::Report;
use crate::stop::Stop;
use crate::target::NoteStore;

pub(crate) use cache::{FamilyCache, FamilyCachePart};
pub(crate) use look::FamilySettingsMark;
pub(crate) use look::{FamilyLook, UntouchedVariant, VariantState};
pub(crate) use record::{FamilyRecord, RecordedVariant};
pub(crate) use record::{StoredFamily, WrittenFamily, remove_target};
pub(crate) use run::{FamilyOptions, FamilyOutcome, FamilyWork};
pub(crate) use run::{FamilyRun, FamilyTally, FamilyTargets};
pub(crate) use sessions::{FamilySessions, SessionPart};

/// The variants of a tileset.
#[derive(Clone)]
pub(crate) struct Family {
    settings: Settings,
    variants: Arc<VariantSettings>,
}

/// The values of a family's variants. They are checked: each variant has an output of its own.
pub(crate) struct FamilyMembers {
    pub table: VariantTable,
    /// The values in the output, for each variant.
    pub(crate) segments: Vec<Vec<ValueSegment>>,
}

impl Family {
    /// The family of a tileset; `None` if the tileset has no variants.
    pub(crate) fn of(settings: &Settings) -> Option<Family> {
        let variants = settings.tileset.variants.clone()?;
        Some(Family { settings: settings.clone(), variants })
    }

    pub(crate) fn name(&self) -> &str {
        &self.settings.tileset.name
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The names of the values in the output, in its order.
    pub(crate) fn names_in_output(&self) -> Vec<String> {
        self.variants.output.names().into_iter().map(str::to_owned).collect()
    }

    /// The output of the variants, with `{name}` for the values.
    pub(crate) fn output(&self) -> String {
        self.variants.output.to_string()
    }

    /// The condition on a layer's rows, with `!name!` for the values; `None` if every variant has all rows.
    pub(crate) fn condition(&self, layer: &str) -> Option<&str> {
        self.variants
            .conditions
            .iter()
            .find(|condition| condition.layer == layer)
            .map(|condition| condition.sql.as_str())
    }

    /// The layer with the family's condition for it, which reads a variant's values from the session; the layer itself
    /// if the family has no condition for it.
    pub(crate) fn variant_layer(
        &self,
        layer: &Arc<Layer>,
        parameters: &[VariantParameter],
    ) -> Result<Arc<Layer>, CommandError> {
        let Some(sql) = self.condition(layer.name()) else { return Ok(Arc::clone(layer)) };
        Ok(Arc::new(layer.with_condition(&bound_condition(sql, parameters)?)))
    }

    /// The values of all variants at a snapshot.
    pub(crate) async fn members(&self, snapshot: &Snapshot) -> Result<FamilyMembers, CommandError> {
        let table = match &self.variants.values {
            VariantValues::Listed(table) => table.clone(),
            VariantValues::Query(query) => variant_table(snapshot, self.name(), query).await?,
        };
        Ok(self.checked(table)?)
    }

    /// The settings with the conditions of the variants. The values come from the database, and are checked.
    pub(crate) async fn with_conditions(&self, snapshot: &Snapshot) -> Result<Settings, CommandError> {
        let members = self.members(snapshot).await?;
        Ok(self.settings.with_variant_conditions(&members.table.parameters)?)
    }

    fn checked(&self, table: VariantTable) -> Result<FamilyMembers, ConfigError> {
        // An empty list in the file has no names.
        if !table.rows.is_empty() || !table.parameters.is_empty() {
            self.variants.check_parameters(&table.parameters)?;
        }
        let mut segments: Vec<Vec<ValueSegment>> = Vec::with_capacity(table.rows.len());
        let mut outputs: HashMap<String, usize> = HashMap::with_capacity(table.rows.len());
        let wrong = |what: String| ConfigError::Variants { key: "tileset.variants.values".to_owned(), what };
        for (number, row) in table.rows.iter().enumerate() {
            let own = self.variants.segments(&table.parameters, row)?;
            let output = self.variants.output_of(&own).display().to_string();
            // Some file systems treat names that differ only in case as the same.
            if let Some(other) = outputs.insert(output.to_lowercase(), number) {
                let other_output = self.variants.output_of(&segments[other]).display().to_string();
                let what = if other_output == output {
                    format!(
                        "give two variants ({}) and ({}) with the same output {output}: write a value that tells them apart into it",
                        table.rows[other].join(", "),
                        row.join(", ")
                    )
                } else {
                    format!(
                        "give {other_output} and {output}, whose names differ in case only, which some file systems take for one: use lower() in values and in where"
                    )
                };
                return Err(wrong(what));
            }
            if self.variants.all.as_deref().is_some_and(|all| is_same_place(all, Path::new(&output))) {
                return Err(wrong(format!(
                    "give the output {output}, which is that of all: choose another one for all"
                )));
            }
            if let Some(all) = &self.variants.all
                && (is_inside(all, Path::new(&output)) || is_inside(Path::new(&output), all))
            {
                return Err(wrong(format!(
                    "give the output {output}, and all is {}: one lies inside of the other, and would take its tiles for files of others. Choose another one for all",
                    all.display()
                )));
            }
            segments.push(own);
        }
        Ok(FamilyMembers { table, segments })
    }

    pub(crate) fn variant(&self, parameters: &[VariantParameter], row: &[String]) -> Result<Settings, CommandError> {
        Ok(self.settings.of_variant(parameters, row)?)
    }

    /// The settings of the tileset without conditions, if it is wanted in addition to the variants. Fails if the
    /// output, `public_url` or the `url` of a purge is no valid address.
    pub(crate) fn all(&self) -> Result<Option<Settings>, CommandError> {
        Ok(self.settings.of_all_variants()?)
    }

    /// The output of the variant with these segments.
    pub(crate) fn output_of(&self, segments: &[ValueSegment]) -> PathBuf {
        self.variants.output_of(segments)
    }

    /// A target that does not exist; the family's own manifest lies next to it. Must be called on a runtime.
    pub(crate) fn manifest_target(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<Target, CommandError> {
        let mut settings = self.settings.clone();
        let folder = self.variants.output.folder();
        settings.tileset.output = PathBuf::from(format!("{folder}{}.variants.pmtiles", self.name()));
        Ok(TilesetRun::new(settings, false, report, stop)?.target)
    }

    /// The notes that are kept with the family's manifest. Must be called on a runtime.
    pub(crate) fn notes(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<Arc<dyn NoteStore>, CommandError> {
        self.manifest_target(report, stop)?.notes()
    }

    /// A run with the family's settings, for a watch. Its target stands for all targets and is none of them. Must be
    /// called on a runtime.
    pub(crate) fn tileset_run(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<TilesetRun, CommandError> {
        let mut settings = self.settings.clone();
        settings.tileset.output = PathBuf::from(self.output());
        TilesetRun::new(settings, false, report, stop)
    }

    /// What the family's manifest says; `None` if there is none. Must be called on a runtime.
    pub(crate) async fn stored(
        &self,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<Option<StoredFamily>, CommandError> {
        let target = self.manifest_target(report, stop)?;
        blocking_read(stop, move || record::read(&target)).await
    }

    /// What the family's manifest says. Must be called on a runtime.
    pub(crate) async fn recorded(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<FamilyRecord, CommandError> {
        Ok(self.known(report, stop).await?.record)
    }

    /// The family's manifest, with the tag that identifies it.
    async fn known(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<StoredFamily, CommandError> {
        match self.stored(report, stop).await? {
            Some(stored) => Ok(stored),
            None => {
                Err(self.needs_seed(report, stop, "its variants were never seeded, or some of them could not be")?)
            }
        }
    }

    /// The family's manifest for a seed, which replaces a manifest that cannot be read.
    async fn stored_or_replaced(
        &self,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<Option<StoredFamily>, CommandError> {
        let target = self.manifest_target(report, stop)?;
        let found = blocking_read(stop, move || record::read_to_replace(&target)).await?;
        Ok(found.map(|(stored, unreadable)| {
            if let Some(error) = unreadable {
                report.warn(format!("{error}: it is replaced"));
            }
            stored
        }))
    }

    pub(crate) fn needs_seed(
        &self,
        report: &Arc<dyn Report>,
        stop: &Stop,
        why: &str,
    ) -> Result<CommandError, CommandError> {
        Ok(needs_seed(&self.tileset_run(report, stop)?.target, why))
    }

    /// Writes the family's manifest, unless it has changed since it was read.
    pub(crate) async fn write(
        &self,
        written: WrittenFamily,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<(), CommandError> {
        let target = self.manifest_target(report, stop)?;
        spawn_blocking(move || record::write(&target, &written)).await?
    }

    /// The settings of the tileset without conditions, if it is wanted, and of all variants in a manifest.
    pub(crate) fn settings_in(&self, record: &FamilyRecord) -> Result<Vec<Settings>, CommandError> {
        let parameters = &record.parameters;
        let variants = record.variants.iter().filter(|variant| !variant.vanished);
        let mut all: Vec<Settings> = self.all()?.into_iter().collect();
        for variant in variants {
            all.push(self.variant(parameters, &variant.values)?);
        }
        Ok(all)
    }
}

fn place_text(path: &Path) -> String {
    path.display().to_string().trim_end_matches('/').to_lowercase()
}

fn is_same_place(one: &Path, other: &Path) -> bool {
    place_text(one) == place_text(other)
}

/// True if the target `one` lies below the target `other`, judged by their texts.
fn is_inside(one: &Path, other: &Path) -> bool {
    place_text(one).strip_prefix(&place_text(other)).is_some_and(|rest| rest.starts_with('/'))
}

// A family as the database has it now: its values, and one variant of it.

impl Family {
    /// The settings of the variant with this output, with the values that the database gives now; or those of the
    /// tileset without conditions, if it has this output. Must be called on a runtime.
    pub(crate) async fn variant_with_output(
        &self,
        output: &Path,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<Settings, CommandError> {
        if let Some(all) = self.all()?
            && is_same_place(&all.tileset.output, output)
        {
            return Ok(all);
        }
        let members = self.members_now(report, stop).await?;
        let is_it = |segments: &Vec<ValueSegment>| self.output_of(segments) == output;
        let Some(number) = members.segments.iter().position(is_it) else {
            let (target, tileset) = (output.display().to_string(), self.name().to_owned());
            return Err(SeveralError::NoVariant { target, tileset, output: self.output() }.into());
        };
        self.variant(&members.table.parameters, &members.table.rows[number])
    }

    /// A run of the family's target with this output or, without `output`, of one target that stands for all. It knows
    /// what the family's manifest says of the target. Must be called on a runtime. Fails if there is no such variant,
    /// or the values or the manifest cannot be read.
    pub(crate) async fn one_target(
        &self,
        output: Option<&Path>,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<TilesetRun, CommandError> {
        let settings = if let Some(output) = output {
            self.variant_with_output(output, report, stop).await?
        } else {
            if let Some(tileset_run) = self.sample(report, stop).await.or_else(unless_needs_seed)? {
                return Ok(tileset_run);
            }
            let tracked = self.settings.tracked(report, stop).await?;
            tracked.into_iter().next_back().unwrap_or_else(|| self.settings.clone())
        };
        let known = self.stored(report, stop).await.or_else(unless_needs_seed)?.and_then(|stored| {
            let is_it = |variant: &&RecordedVariant| self.output_of(&variant.segments) == settings.tileset.output;
            stored.known(stored.record.variants.iter().find(is_it)?)
        });
        Ok(TilesetRun::new(settings, false, report, stop)?.with_known_state(known))
    }

    /// A run of one variant that stands for all, with what the family's manifest says of its target; `None` if there is
    /// no variant.
    pub(crate) async fn sample(
        &self,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<Option<TilesetRun>, CommandError> {
        let stored = self.known(report, stop).await?;
        let Some(first) = stored.record.variants.iter().find(|variant| !variant.vanished) else { return Ok(None) };
        let settings = self.variant(&stored.record.parameters, &first.values)?;
        Ok(Some(TilesetRun::new(settings, false, report, stop)?.with_known_state(stored.known(first))))
    }

    /// The values that the database gives now. Must be called on a runtime.
    pub(crate) async fn members_now(
        &self,
        report: &Arc<dyn Report>,
        stop: &Stop,
    ) -> Result<FamilyMembers, CommandError> {
        let tileset_run = self.tileset_run(report, stop)?;
        let look = async |_restarts| {
            let snapshot = tileset_run.database()?.snapshot().await?;
            self.members(&snapshot).await
        };
        restarting(&self.settings.database, report, stop, look).await
    }
}

/// `None` instead of the error that a family has to be seeded.
fn unless_needs_seed<T>(error: CommandError) -> Result<Option<T>, CommandError> {
    if error.kind() == ErrorKind::NeedsSeed { Ok(None) } else { Err(error) }
}

impl Settings {
    /// The settings whose layers the change log has to watch. If the tileset has variants, one of them stands for all.
    /// Must be called on a runtime.
    ///
    /// # Errors
    /// If the values cannot be read.
    pub async fn tracked(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<Vec<Settings>, CommandError> {
        let Some(family) = Family::of(self) else { return Ok(vec![self.clone()]) };
        let members = family.members_now(report, stop).await?;
        let parameters = &members.table.parameters;
        let one = match members.table.rows.first() {
            Some(row) => family.variant(parameters, row)?,
            None => self.with_variant_conditions(parameters)?,
        };
        Ok(family.all()?.into_iter().chain([one]).collect())
    }

    /// The settings of every target of the tileset. If it has variants, these are the ones that the family's manifest
    /// lists. Must be called on a runtime.
    ///
    /// # Errors
    /// If the manifest cannot be read, or there is none.
    pub async fn targets(self, report: &Arc<dyn Report>, stop: &Stop) -> Result<Vec<Settings>, CommandError> {
        match Family::of(&self) {
            None => Ok(vec![self]),
            Some(family) => family.settings_in(&family.recorded(report, stop).await?),
        }
    }
}

// The manifest of a family, which a server reads repeatedly.

/// Reads the manifest of a family.
#[derive(Clone)]
pub(crate) struct FamilyReader(Target);

/// A manifest that was read, and what identifies it.
#[derive(Debug)]
pub(crate) struct ReadFamily {
    pub(crate) record: FamilyRecord,
    /// The tag that identifies this version of the manifest.
    pub(crate) tag: String,
}

impl Family {
    /// A reader of the family's manifest. Must be called on a runtime.
    pub(crate) fn reader(&self, report: &Arc<dyn Report>, stop: &Stop) -> Result<FamilyReader, CommandError> {
        Ok(FamilyReader(self.manifest_target(report, stop)?))
    }
}

impl FamilyReader {
    /// The manifest; `None` if it still has the tag `known`, in which case only its head is read. May wait for a
    /// server.
    pub(crate) fn read(&self, known: Option<&str>) -> Result<Option<ReadFamily>, CommandError> {
        match record::read_unless(&self.0, known)? {
            record::ReadRecord::Same => Ok(None),
            record::ReadRecord::Other(stored) => {
                Ok(Some(ReadFamily { record: stored.record, tag: stored.tag.unwrap_or_default() }))
            }
            record::ReadRecord::Missing => {
                Err(needs_seed(&self.0, "its variants were never seeded, or their manifest is gone"))
            }
        }
    }
}
