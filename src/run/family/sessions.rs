//! Sessions that draw the variants of a family whose rows are not cached. Each session is opened, locked and probed
//! once, and draws one variant after the other.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::FamilyRun;
use crate::draw::Worker;
use crate::error::ErrorKind;
use crate::postgis::{
    Database, Layer, LayerKind, LayerLocks, LayerOptions, Probed, Reads, Server, Snapshot, jumping_rows, probe_names,
};
use crate::run::identity::LogIdentity;
use crate::run::prepare::{Prepared, ProbedRun, Warnings, plan_probed};
use crate::run::{CommandError, SharedSnapshot, TilesetRun};
use crate::tile::Order;

/// The sessions of a family, on the snapshot of its run.
pub(crate) struct FamilySessions {
    database: Database,
    snapshot: Arc<Snapshot>,
    server: Server,
    log: Option<LogIdentity>,
    /// The layers as every variant has them, with conditions that read the variant's values from the session.
    layers: Vec<Arc<Layer>>,
    reads: Reads,
    locks: LayerLocks,
    /// Sessions that no variant is using.
    idle: Mutex<Vec<Arc<Snapshot>>>,
    /// The most sessions that there may be.
    pub(crate) count: usize,
    /// The snapshot that the family shares with other tilesets.
    pub(crate) shared: SharedSnapshot,
}

/// The session that draws one variant.
#[derive(Clone)]
pub(crate) struct SessionPart {
    pub(crate) sessions: Arc<FamilySessions>,
    session: Arc<Snapshot>,
}

impl FamilySessions {
    /// The sessions of a family; `None` if each variant needs its own, because its layers differ in more than their
    /// rows.
    pub(crate) async fn open(
        run: &FamilyRun<'_>,
        tileset_run: &TilesetRun,
    ) -> Result<Option<FamilySessions>, CommandError> {
        let (family, settings) = (run.family, &tileset_run.settings);
        let calls = |layer: &LayerOptions| matches!(layer.kind, LayerKind::Function(_));
        if run.members.table.rows.len() < 2 || settings.tileset.layers.iter().any(calls) {
            return Ok(None);
        }
        let database = tileset_run.database()?;
        let snapshot = tileset_run.take_snapshot(&database, false).await?;
        // A separate session probes, so that a statement that fails does not affect the others.
        let Some(whole) = suited(probed(&snapshot, &settings.tileset.layers).await)? else { return Ok(None) };
        // No row fulfils a condition on values that are not set. This probe finds out what the conditions read.
        let table = &run.members.table;
        let conditioned = settings.with_variant_conditions(&table.parameters)?;
        let Some(conditioned) = suited(probed(&snapshot, &conditioned.tileset.layers).await)? else {
            return Ok(None);
        };
        let own = whole.layers.iter().map(|layer| family.variant_layer(layer, &table.parameters));
        let layers = own.collect::<Result<Vec<_>, _>>()?;
        let mut warnings = Warnings { report: &tileset_run.report, seen: Vec::new() };
        whole.warnings.into_iter().for_each(|warning| warnings.add(warning));
        for layer in &whole.layers {
            if let Some(jumps) = jumping_rows(&snapshot, layer).await? {
                warnings.add(format!("layer \"{}\": {}", layer.name(), jumps.advice()));
            }
        }
        let log = LogIdentity::read(&snapshot, &settings.database.changes.schema, []).await?;
        Ok(Some(FamilySessions {
            database,
            snapshot,
            server: whole.server,
            log,
            layers,
            reads: conditioned.reads,
            locks: conditioned.locks,
            idle: Mutex::default(),
            count: settings.run.workers.get(),
            shared: run.options.snapshot.clone(),
        }))
    }

    pub(crate) async fn take(self: &Arc<FamilySessions>) -> Result<SessionPart, CommandError> {
        let idle = self.idle.lock().pop();
        let session = match idle {
            Some(session) => session,
            None => Arc::new(self.locks.further_session(&self.database, &self.snapshot).await?),
        };
        Ok(SessionPart { sessions: Arc::clone(self), session })
    }
}

async fn probed(snapshot: &Snapshot, options: &[crate::postgis::LayerOptions]) -> Result<Probed, CommandError> {
    Ok(probe_names(snapshot, options).await?.probe_rows().await?)
}

/// What was probed; `None` if the probe failed, so that each variant has to find out and report the cause by itself.
fn suited(probed: Result<Probed, CommandError>) -> Result<Option<Probed>, CommandError> {
    match probed {
        Ok(probed) => Ok(Some(probed)),
        Err(error) if matches!(error.kind(), ErrorKind::Transient(_) | ErrorKind::Interrupted) => Err(error),
        Err(error) => {
            tracing::debug!("each variant has sessions of its own: {error}");
            Ok(None)
        }
    }
}

impl SessionPart {
    /// What the change log says of the database at the snapshot.
    pub(crate) fn log(&self) -> Option<LogIdentity> {
        self.sessions.log.clone()
    }

    /// Surveys and plans the variant of a run.
    pub(crate) async fn prepared(&self, tileset_run: &TilesetRun, order: Order) -> Result<Prepared, CommandError> {
        let (begun, sessions) = (Instant::now(), &self.sessions);
        let values = &tileset_run.settings.database.session.parameters;
        self.session.begin_variant(values).await?;
        // If a worker has to open another session, that session gets the same values.
        let database = sessions.database.with_parameters(values.clone());
        let packing = tileset_run.settings.run.limits.packing;
        let worker = Worker::alone(&database, &self.session, &sessions.locks, packing).await?;
        let probed = ProbedRun {
            snapshot: Arc::clone(&self.session),
            server: sessions.server.clone(),
            layers: sessions.layers.clone(),
            reads: sessions.reads.clone(),
            workers: vec![worker],
        };
        let warnings = Warnings { report: &tileset_run.report, seen: Vec::new() };
        plan_probed(tileset_run, probed, warnings, order, begun).await
    }

    /// Returns the session, for another variant.
    pub(crate) fn give_back(self) {
        self.sessions.idle.lock().push(self.session);
    }
}
