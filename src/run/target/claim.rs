//! What a run asks of its target before it writes: whether it is this tileset's, whether it would lose too many rows,
//! whether maps find its tiles.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::refusal::{TilesetNames, refuse_other};
use super::{OpenedSink, Target};
use crate::manifest::{Publication, RowCounts, publication_of, row_counts_of};
use crate::postgis::{Layer, LayerKind};
use crate::run::describe::leaves_parts;
use crate::run::row_loss::{KnownRows, RowsJudge};
use crate::run::{CommandError, RunPart, TilesetRun};
use crate::target::{Described, OpenMode, Sink};
use crate::tile::area_texts;

/// A target that was found to be this tileset's.
pub(crate) struct Claimed {
    pub(crate) sink: OpenedSink,
    pub(crate) before: Option<Publication>,
    /// What it says about itself, if this program wrote it.
    pub(crate) described: Option<Described>,
}

/// Opens the target for this run; refuses a target of another tileset.
pub(crate) async fn claim(run: &TilesetRun) -> Result<Claimed, CommandError> {
    let (target, tileset) = (run.target.clone(), &run.settings.tileset);
    let names = TilesetNames {
        name: tileset.name.clone(),
        layers: tileset.layers.iter().map(|layer| layer.name.clone()).collect(),
        may_have_more: tileset.layers.iter().any(|layer| matches!(layer.kind, LayerKind::Function(_))),
    };
    spawn_blocking(move || {
        let mut sink = target.sink(OpenMode::Replace)?;
        sink.claim()?;
        let described = refuse_other(&target, &names)?;
        let before = described.as_ref().and_then(|before| publication_of(before.manifest.as_deref()?));
        Ok(Claimed { sink, before, described })
    })
    .await?
}

/// Refuses a seed that would lose too many rows of a layer; otherwise returns the numbers for its manifest. `described`
/// is what the target says about itself. See [`RowsJudge::judge`] for `known` and `count`.
pub(crate) async fn judge_rows(
    run: &TilesetRun,
    layers: &[Arc<Layer>],
    described: Option<&Described>,
    known: &[KnownRows],
    count: impl AsyncFnMut(usize) -> Result<Option<u64>, CommandError>,
) -> Result<Option<RowCounts>, CommandError> {
    let before = described.and_then(|before| row_counts_of(before.manifest.as_deref()?));
    let tileset = &run.settings.tileset;
    let bbox = area_texts(&tileset.bbox);
    if let (Some(described), Some(rows)) = (described, &before)
        && rows.bbox != bbox
        && leaves_parts(&run.settings, described)
    {
        // The rows in these boxes cannot be compared with those of the target's other parts, which stay.
        return Ok(before);
    }
    let (target, max, zooms) = (&run.target, tileset.max_shrink, &tileset.zooms);
    RowsJudge { target, max, layers, zooms, bbox, before: before.as_ref() }.judge(known, count).await.map(Some)
}

/// The warning that a seed leaves tiles of an archive out, because it has fewer zooms or smaller boxes; `None` if it
/// covers all that the archive has. `described` is what the archive says about itself.
pub(crate) fn narrower_archive_warning(run: &TilesetRun, described: Option<&Described>) -> Option<String> {
    let before = described.filter(|_| run.target.url.is_archive() && matches!(run.part, RunPart::Whole))?;
    leaves_parts(&run.settings, before).then(|| {
        format!(
            "{} has tiles outside of this seed's zooms and boxes, which it will lose: an archive is replaced as a whole. To keep them, stop this run, and name another file with --output",
            run.target
        )
    })
}

/// The warning that maps cannot find the tiles by the target's TileJSON; `None` if they can.
pub(crate) fn relative_address_warning(sink: &impl Sink, target: &Target) -> Option<String> {
    let address = sink.relative_address()?;
    Some(format!(
        "the TileJSON of {target} gives the address of its tiles as {address}, and MapLibre shows an empty map then: TileJSON wants whole addresses. Say where clients find {target} with --public-url https://… (public_url in [target]; once is enough), or set public_url = \"relative\" if no map reads the TileJSON"
    ))
}
