//! A family that was seeded in parts, each on a snapshot of its own. One run seeds some of the variants, and another brings all of them to one
//! state.

use super::super::CommandError;
use super::{Family, FamilyMembers, FamilyRun, RecordedVariant, StoredFamily};
use crate::changes::Cursor;
use crate::config::JobSettings;
use crate::manifest::{DatabaseMark, Witness};

/// The result of all parts of a family that were seeded.
#[derive(Debug, Clone, Default)]
pub struct SeededVariants {
    /// A database state that all of these variants show. Each may show a later one.
    pub cursor: Cursor,
    /// The identity of the database, as in a manifest.
    pub database: Option<DatabaseMark>,
    /// The witnesses of the states that the variants show.
    pub witnesses: Vec<Witness>,
    /// The variants, with the publications of their targets.
    pub variants: Vec<RecordedVariant>,
}

impl SeededVariants {
    /// The family's manifest as it would be after a seed of these variants alone. `before` is the stored manifest. Any other variant is treated
    /// as one whose value has vanished: it was not seeded, so it is not kept up to date.
    pub(super) fn over(&self, before: Option<StoredFamily>, now: &super::FamilyRecord) -> StoredFamily {
        let mut record = now.clone();
        record.snapshot = self.cursor.to_string();
        record.database.clone_from(&self.database);
        record.witnesses.clone_from(&self.witnesses);
        record.variants.clone_from(&self.variants);
        let seeded: std::collections::HashSet<_> = self.variants.iter().map(|variant| &variant.segments).collect();
        let others = before.iter().flat_map(|before| &before.record.variants);
        let others = others.filter(|other| !seeded.contains(&other.segments));
        let others: Vec<RecordedVariant> =
            others.map(|other| RecordedVariant { publication: None, vanished: true, ..other.clone() }).collect();
        record.variants.extend(others);
        let tag = before.and_then(|before| before.tag);
        StoredFamily { record, cursor: Some(self.cursor.clone()), tag, is_written: false }
    }
}

impl FamilyRun<'_> {
    /// Leaves out the variants of other parts, which `is_own` recognizes by their outputs, and, unless `keeps_all`, the tileset without
    /// conditions. The run must not be finished then.
    pub(crate) fn keep_part(&mut self, is_own: impl Fn(&str) -> bool, keeps_all: bool) {
        let (segments, rows) =
            (std::mem::take(&mut self.members.segments), std::mem::take(&mut self.members.table.rows));
        for (segments, row) in segments.into_iter().zip(rows) {
            if is_own(&self.family.output_of(&segments).display().to_string()) {
                self.members.segments.push(segments);
                self.members.table.rows.push(row);
            }
        }
        self.all = self.all.take().filter(|_| keeps_all);
    }

    /// The identity of the database, as in a manifest.
    pub(crate) fn database(&self) -> Option<DatabaseMark> {
        self.record.database.clone()
    }

    /// The variants that the run has seeded.
    pub(crate) fn seeded(&self) -> Vec<RecordedVariant> {
        let variants = self.members.segments.iter().zip(&self.members.table.rows);
        let variant = |(segments, values): (&Vec<_>, &Vec<String>)| {
            let publication = self.published.get(&self.family.output_of(segments))?.clone();
            let (segments, values) = (segments.clone(), values.clone());
            Some(RecordedVariant { segments, values, publication: Some(publication), vanished: false })
        };
        variants.filter_map(variant).collect()
    }
}

impl FamilyMembers {
    /// The settings of `all`, the tileset without conditions, and of each variant with its number.
    pub(crate) fn each_target<'a>(
        &'a self,
        family: &'a Family,
        all: Option<&'a JobSettings>,
    ) -> impl Iterator<Item = (Option<usize>, Result<JobSettings, CommandError>)> + use<'a> {
        let variants = self.table.rows.iter().enumerate();
        let all = all.into_iter().map(|all| (None, Ok(all.clone())));
        all.chain(variants.map(|(number, row)| (Some(number), family.variant(&self.table.parameters, row))))
    }
}
