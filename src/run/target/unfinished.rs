//! Unfinished runs of a target: whether a reseed repairs what they left, and which regions a seed has to cover if not.

use super::Target;
use crate::manifest::{Manifest, Region, configuration_of};
use crate::run::CommandError;
use crate::run::describe::database_of;
use crate::target::{Intent, IntentKind};
use crate::tile::{Scope, ZoomList};

/// Why a reseed cannot repair what an unfinished run left, and what to do; `None` if it can. It can if the unfinished
/// run may have changed only tiles for which the manifest speaks, and rendered them from the same tables with the same
/// configuration. Such a tile shows a later state than the manifest, or than the snapshot that the intent names, and
/// the reseed renders what changed since both anyway.
pub(crate) fn why_not_repairable(intent: &Intent, manifest: &Manifest) -> Option<String> {
    let left = match intent.run {
        IntentKind::Copy => return Some(format!("{intent} has not finished: copy the tiles again")),
        IntentKind::Replaced => format!("tiles of {intent} are still there"),
        IntentKind::Seed | IntentKind::Reseed | IntentKind::Unknown => format!("{intent} has not finished"),
    };
    let (theirs, ours) = (&intent.fingerprint, &manifest.fingerprint);
    if configuration_of(theirs) != configuration_of(ours) {
        return Some(format!(
            "{left}, and its tiles are of another configuration (their fingerprint is {theirs}, that of the manifest {ours}): seed with --force, and with its zooms and boxes, to replace them"
        ));
    }
    if theirs != ours {
        return Some(format!("{left}, and another version of oar-tiles drew its tiles ({theirs}, and not {ours})"));
    }
    if intent.database.as_deref() != Some(&database_of(manifest)) {
        return Some(format!("{left}, and its tiles show another database or other tables"));
    }
    let parts: Vec<Scope> = manifest.regions().filter_map(|part| Scope::read(&part.zooms, &part.bbox).ok()).collect();
    if !intent.scope().is_within(&parts) {
        let held: Vec<String> = manifest.regions().map(|part| part.zooms).collect();
        return Some(format!(
            "{left}, and reaches beyond what the manifest speaks for (zooms {}): seed with its zooms and boxes",
            held.join(" and ")
        ));
    }
    None
}

/// The regions to seed so that nothing is left of an unfinished run: first the regions where its tiles lie, then those
/// for which the manifest speaks. The region of the last seed comes last. May wait for a server.
pub(crate) fn regions_to_seed(
    target: &Target,
    manifest: &Manifest,
    unfinished: &[Intent],
) -> Result<Vec<Region>, CommandError> {
    let mut regions = Vec::new();
    if unfinished.iter().any(|intent| why_not_repairable(intent, manifest).is_some()) {
        let tiles = target.reader()?.list()?;
        for intent in unfinished {
            let scope = intent.scope();
            let zooms = tiles.iter().filter(|id| scope.holds(**id)).map(|id| id.coord.zoom());
            if let Some(zooms) = ZoomList::of(zooms) {
                regions.push(Region {
                    zooms: zooms.to_string(),
                    bbox: intent.bbox.clone(),
                    snapshot: None,
                    witness: None,
                });
            }
        }
    }
    let parts: Vec<Region> = manifest.regions().collect();
    regions.extend(parts.into_iter().rev());
    let is_within = |inner: &Region, outer: &Region| {
        let scope = |region: &Region| Scope::read(&region.zooms, &region.bbox).ok();
        scope(inner).zip(scope(outer)).is_some_and(|(inner, outer)| inner.is_within(&[outer]))
    };
    let mut needed: Vec<Region> = Vec::new();
    for region in regions {
        if !needed.iter().any(|other| is_within(&region, other)) {
            needed.retain(|other| !is_within(other, &region));
            needed.push(region);
        }
    }
    Ok(needed)
}
