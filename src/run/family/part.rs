//! A seed of some variants of a family. It adds what it has seeded to the family's manifest, and leaves the other
//! variants there as they are, so that several such seeds may run at once, each on a snapshot of its own.
//!
//! The manifest is read, joined with what was seeded, and written on condition that it is still the one that was read;
//! otherwise all of it is done again. It names a database state that all variants show: the older one of that before
//! and that of the seed.

use std::time::Duration;

use super::{
    Family, FamilyMembers, FamilyOptions, FamilyOutcome, FamilyRecord, FamilyRun, RecordedVariant, StoredFamily,
    WrittenFamily,
};
use crate::cdn::OutboxError;
use crate::change_log::Cursor;
use crate::config::nearest;
use crate::manifest::{DatabaseIdentity, Witness};
use crate::run::identity::{LogIdentity, SameDatabase, compare};
use crate::run::{CommandError, OTHER_HISTORY, SeveralError};
use crate::suggested::SEED;
use crate::target::NoteError;

/// The most attempts to add to a manifest that other seeds change meanwhile. Each attempt that fails is one that
/// another seed has won.
const MAX_ATTEMPTS: u32 = 1_000;

/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_millis(200);

impl FamilyMembers {
    /// Keeps the variants with these names: the values in their outputs, joined by slashes.
    pub(crate) fn keep(&mut self, wanted: &[String], family: &Family) -> Result<(), SeveralError> {
        let in_output = family.names_in_output();
        let places: Vec<usize> = in_output
            .iter()
            .filter_map(|name| self.table.parameters.iter().position(|parameter| parameter.name == *name))
            .collect();
        let name = |row: &Vec<String>| places.iter().map(|place| row[*place].as_str()).collect::<Vec<_>>().join("/");
        let names: Vec<String> = self.table.rows.iter().map(name).collect();
        if let Some(unknown) = wanted.iter().find(|wanted| !names.contains(wanted)) {
            let hint = nearest(unknown, names.iter().map(String::as_str));
            return Err(SeveralError::UnknownVariant {
                wanted: unknown.clone(),
                tileset: family.name().to_owned(),
                hint: hint.unwrap_or_else(|| format!(": {SEED} --dry-run lists them")),
            });
        }
        let mut keeps = names.iter().map(|name| wanted.contains(name));
        self.segments.retain(|_| keeps.next().unwrap_or_default());
        let mut keeps = names.iter().map(|name| wanted.contains(name));
        self.table.rows.retain(|_| keeps.next().unwrap_or_default());
        Ok(())
    }
}

/// Why variants of this database cannot be added to a manifest; `None` if they can.
pub(crate) fn of_another(record: &FamilyRecord, now: &DatabaseIdentity, log: Option<&LogIdentity>) -> Option<String> {
    match compare(record.database.as_ref(), now, log.map(LogIdentity::key)) {
        Err(why) => Some(why),
        Ok(SameDatabase::OtherKey) => Some("its variants show a database with another change log".to_owned()),
        Ok(SameDatabase::Yes | SameDatabase::Unsaid) => {
            log.is_some_and(|log| log.contradicts(&record.witnesses)).then(|| OTHER_HISTORY.to_owned())
        }
    }
}

/// The manifest that the family has once `own` is added to it. `checked` is the manifest whose witnesses were compared
/// with the database of `own`.
fn joined(
    family: &Family,
    own: &FamilyRecord,
    stored: &StoredFamily,
    checked: Option<&StoredFamily>,
    options: &FamilyOptions,
) -> Result<FamilyRecord, CommandError> {
    let before = &stored.record;
    if let Some(what) = stored.differs_from(own) {
        return Err(family.is_another(what, before).into());
    }
    let checked = checked.map(|checked| &checked.record);
    let why = if before.parameters != own.parameters {
        Some("the names or types of its values have changed")
    } else if before.database != own.database && checked.is_none_or(|checked| before.database != checked.database) {
        Some("another run has seeded variants of it from another database meanwhile")
    } else {
        None
    };
    if let Some(why) = why {
        return Err(family.needs_seed(&options.report, &options.stop, why)?);
    }
    let mut record = own.clone();
    let is_own = |other: &&RecordedVariant| own.variants.iter().any(|variant| variant.segments == other.segments);
    let others: Vec<RecordedVariant> = before.variants.iter().filter(|other| !is_own(other)).cloned().collect();
    if others.iter().any(|other| !other.vanished) {
        record.database.clone_from(&before.database);
        let seen: Cursor = own.snapshot.parse()?;
        // This seed's witness vouches for older states, but only for those of a manifest that was compared with its
        // database.
        let shown: Vec<Cursor> = own.witnesses.iter().filter_map(|own| own.snapshot.parse().ok()).collect();
        let vouches = |witness: &Witness| {
            checked.is_some_and(|checked| checked.witnesses.contains(witness))
                && witness.snapshot.parse().is_ok_and(|older| shown.iter().any(|shown| shown.sees_all_of(&older)))
        };
        let kept = before.witnesses.iter().filter(|witness| !own.witnesses.contains(witness) && !vouches(witness));
        record.witnesses.extend(kept.cloned());
        let all = stored.cursor.as_ref().map_or(seen.clone(), |before| before.meet(&seen));
        record.snapshot = all.to_string();
    }
    record.variants.extend(others);
    Ok(record)
}

impl FamilyRun<'_> {
    /// Ends a seed of some variants: adds those that were seeded to the family's manifest.
    pub(crate) async fn finish_part(self) -> Result<FamilyOutcome, CommandError> {
        let FamilyOptions { report, stop, .. } = self.options;
        let variant = |variant: &RecordedVariant| {
            let publication = self.tally.published.get(&self.family.output_of(&variant.segments))?.clone();
            Some(RecordedVariant { publication: Some(publication), ..variant.clone() })
        };
        let seeded: Vec<RecordedVariant> = self.record.variants.iter().filter_map(variant).collect();
        let own = FamilyRecord { variants: seeded, ..self.record };
        let (mut done, complete) = self.tally.ended();
        done.snapshot.clone_from(&own.snapshot);
        for attempt in 1.. {
            if own.variants.is_empty() {
                break;
            }
            let stored = self.family.stored(report, stop).await?;
            let record = match &stored {
                None => own.clone(),
                Some(stored) => joined(self.family, &own, stored, self.before.as_ref(), self.options)?,
            };
            match self.family.write(WrittenFamily { record, before: stored }, report, stop).await {
                Err(CommandError::Outbox(OutboxError::Note(NoteError::Changed { .. }))) if attempt < MAX_ATTEMPTS => {}
                written => {
                    written?;
                    break;
                }
            }
            stop.check()?;
            tokio::time::sleep(MAX_PAUSE.mul_f64(fastrand::f64())).await;
        }
        done.seconds = self.begun.elapsed().as_secs_f64();
        Ok(FamilyOutcome { report: done, complete, not_compacted: None })
    }
}
