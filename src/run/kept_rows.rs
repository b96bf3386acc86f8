//! Rows that are kept, read on a snapshot of their own: by a server for live tiles, by `reseed --watch` for
//! its looks. The change log says where they have changed since.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::CommandError;
use super::dirty::drawn;
use crate::change_log::{UnseenLog, newest_logged, tracked};
use crate::cursor::{Cursor, StateInHistory};
use crate::draw::{COMPARED_TILES, LivePoints, MAX_CHANGED_POSITIONS, Worker, note_position};
use crate::plan::{DrawnLayer, batches};
use crate::postgis::{Database, Layer, Reads, Snapshot};
use crate::tile::{ChangeLocation, SearchBox, TileCoord, TileRect};

pub(crate) struct RowsSnapshot<'a> {
    /// Reads on the snapshot.
    pub(crate) worker: Worker,
    pub(crate) database: &'a Database,
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) layers: &'a [Arc<Layer>],
    pub(crate) reads: &'a Reads,
    pub(crate) shown: &'a StateInHistory,
}

impl RowsSnapshot<'_> {
    /// True if the database draws the same tiles around some rows of a layer as the rows do.
    pub(crate) async fn draws_alike(&self, layer: usize, points: &LivePoints) -> Result<bool, CommandError> {
        let zoom = self.layers[layer].zooms().max();
        let tiles: Vec<TileCoord> = points.sample(zoom, COMPARED_TILES).iter().filter_map(TileRect::first).collect();
        let drawn: Vec<DrawnLayer> = self.layers.iter().map(|layer| drawn(layer)).collect();
        let batches = batches(&tiles, &drawn, NonZeroUsize::MIN, None, |_layer, _rect| SearchBox::Area);
        Ok(points.draw_alike(&self.worker, self.layers, layer, &batches).await?)
    }
}

/// True if the database's history has a state, and the snapshot sees it.
pub(crate) async fn is_in_history(
    snapshot: &Snapshot,
    schema: &str,
    shown: &StateInHistory,
) -> Result<bool, CommandError> {
    let now: Cursor = snapshot.cursor().parse()?;
    let newest = newest_logged(snapshot, schema, std::slice::from_ref(&shown.state)).await?;
    Ok(newest == [shown.newest] && now.sees_all_of(&shown.state))
}

/// The changed positions of each of some layers since a state; `None` where they are not known or too many.
pub(crate) async fn changed_positions(
    database: &Database,
    snapshot: &Snapshot,
    layers: &[Arc<Layer>],
    since: &Cursor,
    schema: &str,
) -> Result<Vec<Option<Vec<[f64; 2]>>>, CommandError> {
    let watches = tracked(database, snapshot, schema, None, layers, since).await?;
    let log = UnseenLog { snapshot, schema, cursor: since };
    let logged = log.changes().await?;
    let mut changed = Vec::new();
    for (layer, watches) in layers.iter().zip(&watches) {
        let unseen = logged.of_layer(watches);
        let rows: u64 = unseen.iter().map(|(_, rows)| rows).sum();
        // Before they are read: tiles wait for this.
        let is_known = rows <= MAX_CHANGED_POSITIONS as u64 && !unseen.iter().any(|(watch, _)| watch.is_query());
        let mut positions = is_known.then(Vec::new);
        for (watch, _) in unseen {
            if positions.is_none() {
                break;
            }
            let each = |spot: ChangeLocation| {
                note_position(&mut positions, &spot);
                if positions.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            if !log.positions(watch, layer, each).await? {
                positions = None;
            }
        }
        changed.push(positions);
    }
    Ok(changed)
}
