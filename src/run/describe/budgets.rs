//! What a run reports about the budgets of its layers and about tiles that could not be rendered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::pipeline::{FailedTile, PipelineOutcome, ZoomStats};
use crate::report::{Event, FailedLayer, LargeTile, LayerBudget, Report, named};
use crate::run::CommandError;
use crate::tile::{LayerId, TileCoord};

/// Why a tile could not be rendered.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TileCause(String);

/// The name of a layer.
fn name(names: &[String], layer: LayerId) -> String {
    names.get(usize::from(layer.0)).cloned().unwrap_or_default()
}

/// How far each layer's budget was kept. `names` are the names of the layers, by their ids.
pub(crate) fn budgets(outcome: &PipelineOutcome, names: &[String]) -> Vec<LayerBudget> {
    let of_layer = |(layer, stats): (&LayerId, &crate::pipeline::LayerStats)| LayerBudget {
        layer: name(names, *layer),
        thinned_tiles: stats.thinned,
        features_left_out: stats.left_out,
        large_tiles: stats.large,
        heaviest: stats.heaviest.map(|(heaviest, limit)| LargeTile {
            tile: heaviest.tile,
            bytes: heaviest.bytes,
            limit,
        }),
    };
    outcome.layers.iter().map(of_layer).collect()
}

/// How long a reseed does not repeat the warnings about a layer's budget: cron mails each of them.
const WARNING_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// Reports the warnings about budgets, and returns them. `warned` is when each layer was last warned of ([`Manifest::warned`]), and is brought up to
/// date; a layer that was warned of in the last 24 hours is not reported again.
///
/// [`Manifest::warned`]: crate::manifest::Manifest::warned
pub(crate) fn warn(
    budgets: &[LayerBudget],
    warned: &mut BTreeMap<String, u64>,
    report: &Arc<dyn Report>,
) -> Vec<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // A moment in the future is none: the clock was wrong.
    warned.retain(|_, then| now.checked_sub(*then).is_some_and(|seconds| seconds < WARNING_PAUSE.as_secs()));
    let mut all = Vec::new();
    for budget in budgets {
        let warnings = budget.warnings();
        if !warnings.is_empty() && !warned.contains_key(&budget.layer) {
            warned.insert(budget.layer.clone(), now);
            for message in &warnings {
                report.event(&Event::Warning { message: message.clone() });
            }
        }
        all.extend(warnings);
    }
    all
}

/// The tiles that could not be rendered, with the names of the layers.
pub(crate) fn failed(outcome: &PipelineOutcome, names: &[String]) -> Vec<FailedLayer> {
    let of_tile = |failed: &FailedTile| FailedLayer {
        tile: failed.tile,
        layer: name(names, failed.layer),
        cause: failed.cause.clone(),
    };
    outcome.failed.iter().map(of_tile).collect()
}

/// The tiles that could not be rendered.
pub(crate) fn failed_tiles(outcome: &PipelineOutcome) -> Vec<TileCoord> {
    outcome.failed.iter().map(|failed| failed.tile).collect()
}

/// The name of the layer that has the most bytes in the largest tile of a zoom.
pub(crate) fn largest_layer(zoom: &ZoomStats, names: &[String]) -> Option<String> {
    zoom.largest.map(|_| name(names, zoom.largest_layer))
}

/// The tiles that could not be rendered, for the manifest: those of this run (`failed`), and those in `before` that this run did not render.
pub(crate) fn unrendered(
    before: &[TileCoord],
    is_rendered: impl Fn(TileCoord) -> bool,
    failed: &[TileCoord],
) -> Vec<String> {
    let still = before.iter().filter(|tile| !is_rendered(**tile)).copied();
    let mut tiles: Vec<String> = Vec::new();
    for tile in still.chain(failed.iter().copied()) {
        let tile = tile.to_string();
        // A tile in which several layers failed is listed once.
        if tiles.last() != Some(&tile) {
            tiles.push(tile);
        }
    }
    tiles
}

/// Fails if the run had to leave tiles as they were: it is done only in part.
pub(crate) fn complete(target: &str, failed: &[FailedLayer]) -> Result<(), CommandError> {
    let Some(first) = failed.first() else { return Ok(()) };
    Err(CommandError::Unrendered {
        target: target.to_owned(),
        tiles: named(failed),
        source: TileCause(first.cause.clone()),
    })
}
