//! Tells families with the same name apart, so that one does not replace the other.

use std::collections::HashSet;

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};

use super::{Family, FamilyRecord, RecordedVariant, StoredFamily};
use crate::config::{ConfigError, VariantValues};

/// Hashes of what the configuration says about the variants. Two families with the same name and output differ in these hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilySettingsMark {
    /// The hash of the conditions.
    pub conditions: String,
    /// The hash of the values: of the query, or of the list.
    pub values: String,
}

/// Why a record belongs to another family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OtherFamily {
    /// Its variants have another output.
    Output,
    /// Its conditions differ.
    Conditions,
    /// Its values have another source, and none of its variants is among those of `now`.
    Values,
}

impl StoredFamily {
    /// Why the record belongs to another family than `now`; `None` if it belongs to the same family.
    pub(super) fn differs_from(&self, now: &FamilyRecord) -> Option<OtherFamily> {
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
            hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
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
    pub(super) fn is_another(&self, what: OtherFamily, other: &FamilyRecord) -> ConfigError {
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
