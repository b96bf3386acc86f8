//! Rows that are kept, read on a snapshot of their own: by a server for live tiles, by `reseed --watch` for
//! its looks. The change log says where they have changed since. A server's tilesets and its writer take them from each
//! other.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::CommandError;
use super::dirty::drawn;
use crate::change_log::{UnseenLog, newest_logged, tracked};
use crate::cursor::{Cursor, NewestLogged, StateInHistory};
use crate::draw::{
    COMPARED_TILES, CellMembers, GivenCount, KeptFeatures, LivePoints, LiveRows, LiveStep, MAX_CHANGED_POSITIONS,
    PooledRows, RowsAge, RowsPool, Worker, note_position,
};
use crate::error::with_causes;
use crate::plan::{DrawnLayer, batches};
use crate::postgis::{Database, Layer, Reads, Snapshot, shows_rows_as_written};
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

    /// True if the database draws the same tiles of cells around some rows as with the cells that are counted from the
    /// rows. `layer` is the number of the layer of cells.
    pub(crate) async fn counts_alike(
        &self,
        layer: usize,
        members: &Arc<CellMembers>,
        points: &LivePoints,
    ) -> Result<bool, CommandError> {
        let layer = &self.layers[layer];
        for rect in points.sample(layer.zooms().max(), COMPARED_TILES) {
            let tiles: Vec<TileCoord> = rect.first().into_iter().collect();
            let nearby = batches(&tiles, &[drawn(layer)], NonZeroUsize::MIN, None, |_layer, _rect| SearchBox::Area);
            for batch in &nearby {
                if !members.draw_alike(&self.worker, layer, points, batch).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Positions that several layers of the same rows name, each once.
pub(crate) fn distinct(mut positions: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    positions.sort_unstable_by(|one, other| one[0].total_cmp(&other[0]).then(one[1].total_cmp(&other[1])));
    positions.dedup();
    positions
}

/// A snapshot on which rows are taken from others in this process, or offered to them.
#[derive(Clone, Copy)]
pub(crate) struct PoolStep<'a> {
    pub(crate) pool: &'a RowsPool,
    pub(crate) database: &'a Database,
    pub(crate) snapshot: &'a Snapshot,
    /// The schema of the change log.
    pub(crate) schema: &'a str,
}

impl PoolStep<'_> {
    /// The rows of a layer that others have, brought to the snapshot, in at most `memory` bytes: any, or those from
    /// which a user with rows of the age `own` should go on. The rows are also those of the layers `all`, of each of
    /// which the log says by itself where they have changed. `None` if there are none, so that they have to be read.
    pub(crate) async fn taken(
        self,
        layer: &Layer,
        all: &[Arc<Layer>],
        own: Option<RowsAge>,
        memory: usize,
    ) -> Option<LiveRows> {
        let (pooled, rows) = self.pool.rows_of(layer, own).filter(|(_, rows)| rows.bytes() <= memory)?;
        let now = self.snapshot.cursor().parse::<Cursor>();
        if !now.is_ok_and(|now| now.sees_all_of(&pooled.shown.state)) {
            // Others are at a later snapshot.
            return None;
        }
        let why_not = match self.brought(&pooled, rows, layer, all, memory).await {
            Ok(Some(rows)) => {
                tracing::debug!("layer \"{}\": its live rows are those of others in this process", layer.name());
                if own.is_none() {
                    pooled.note_given();
                }
                return Some(rows);
            }
            Ok(None) => "it is not known what has changed since".to_owned(),
            Err(error) => with_causes(&error),
        };
        // Those who keep them may be nearer to their state.
        tracing::info!("layer \"{}\": live rows of others in this process are not used: {why_not}", layer.name());
        None
    }

    async fn brought(
        self,
        pooled: &PooledRows,
        rows: KeptFeatures,
        layer: &Layer,
        all: &[Arc<Layer>],
        memory: usize,
    ) -> Result<Option<LiveRows>, CommandError> {
        let PoolStep { database, snapshot, schema, .. } = self;
        if !is_in_history(snapshot, schema, &pooled.shown).await? {
            return Ok(None);
        }
        let asking = Box::pin(changed_positions(database, snapshot, all, &pooled.shown.state, schema));
        let changed = snapshot.without_keeping_locks(asking).await?;
        let changed: Option<Vec<Vec<[f64; 2]>>> = changed.into_iter().collect();
        let are_as_written = shows_rows_as_written(snapshot, layer, &[]).await?;
        let since = pooled.shown.state.to_string();
        let step = LiveStep { snapshot, since: &since, now: snapshot.cursor(), memory };
        let rows = pooled.kept(rows, step, layer, are_as_written);
        let changed = changed.map(|changed| distinct(changed.concat()));
        let is_brought = rows.points(step, layer, changed.as_deref()).await?.is_some();
        Ok(is_brought.then_some(rows))
    }

    /// Offers the rows of a layer to others, if they are those of the snapshot, whose state is `shown`. `given` counts
    /// how many times others take them.
    pub(crate) async fn offer(self, rows: &LiveRows, layer: &Layer, shown: &StateInHistory, given: &GivenCount) {
        // A snapshot of a standby shows more than the name of its state says.
        if shown.newest == NewestLogged::NoLog || self.snapshot.is_of_standby() {
            return;
        }
        rows.offer(self.pool, layer, shown, given).await;
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
