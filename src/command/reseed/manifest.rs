//! The tileset that a reseed hands to its sink, and the manifest that it writes.

use std::time::UNIX_EPOCH;

use super::run::ReseedRun;
use crate::changes::Cursor;
use crate::manifest::{DatabaseMark, Manifest, Witness};
use crate::pipeline;
use crate::run::CommandError;
use crate::run::describe::{LogIdentity, budgets, database, names};
use crate::run::look::DirtyTiles;
use crate::sink::{PartialScope, RunKind, Scope, Tileset, Unwritten};
use crate::tile::{Coverage, TileRectList};

impl ReseedRun<'_> {
    /// The description of the run for the sink.
    pub(super) fn tileset(&self, changed: &DirtyTiles) -> Result<Tileset, CommandError> {
        let before = self.look.state.manifest.publication.as_ref();
        Ok(Tileset {
            fingerprint: self.look.state.manifest.fingerprint.clone(),
            layers: names(&self.look.layers),
            scope: Scope {
                zooms: self.look.job.settings.tileset.zooms.clone(),
                coverage: Coverage::new(&self.look.job.settings.tileset.bbox),
            },
            partial: PartialScope::default(),
            unwritten: Unwritten::Keep,
            list_changes: self.look.job.changed_out.is_some(),
            run: RunKind::Reseed {
                database: database(self.mark(changed).as_ref(), Some(&self.look.reads.digest)),
                complete: changed.complete,
            },
            dirty: TileRectList::of(changed.dirty.iter()),
            before_manifest: self.look.job.target.before_manifest(before, &self.publication)?,
        })
    }

    /// The mark of the database that the manifest has after this run.
    pub(super) fn mark(&self, changed: &DirtyTiles) -> Option<DatabaseMark> {
        let before = self.look.state.manifest.database.as_ref();
        match &self.look.log {
            // After a run of tiles that the user named, the other tiles still belong to the database in the old manifest.
            Some(log) if changed.complete || before.is_some() => Some(log.mark(&self.look.server.identity)),
            _ => before.cloned(),
        }
    }

    /// The witness that the manifest has after this run: that of the newest state which any of its tiles shows.
    pub(super) async fn witness(&self, changed: &DirtyTiles) -> Result<Option<Witness>, CommandError> {
        let (before, snapshot) = (&self.look.state.manifest.witness, &self.look.snapshot);
        let cursor = |text: &str| text.parse::<Cursor>();
        let is_newest = match before.as_ref().map(|before| cursor(&before.snapshot)) {
            Some(Ok(before)) => cursor(snapshot.cursor()).is_ok_and(|now| now.sees_all_of(&before)),
            Some(Err(_)) => false,
            None => true,
        };
        if self.mark(changed).is_none() || !changed.complete && !is_newest {
            return Ok(before.clone());
        }
        let schema = &self.look.job.settings.database.changes.schema;
        let log = LogIdentity::read(snapshot, schema, [snapshot.cursor()]).await?;
        Ok(log.and_then(|log| log.witness(snapshot.cursor()).cloned()).or_else(|| before.clone()))
    }

    /// The manifest after this run. A complete run moves the snapshot to its own. `held` is the number of tiles that the target held before; it
    /// is given if the old manifest may be wrong about it.
    pub(super) fn manifest(
        &self,
        changed: &DirtyTiles,
        outcome: &pipeline::PipelineOutcome,
        held: Option<u64>,
        witness: Option<Witness>,
    ) -> Manifest {
        let written = outcome.written;
        let old = &self.look.state.manifest;
        let stored = (held.unwrap_or(old.stored) + written.added).saturating_sub(written.deleted);
        let parts =
            if changed.complete { old.clone().brought_forward(self.look.snapshot.cursor()) } else { old.clone() };
        Manifest {
            version: Manifest::version_with(&changed.beyond.partial),
            generator: crate::sink::GENERATOR.to_owned(),
            database: self.mark(changed),
            witness,
            reads: Some(self.look.reads.digest.clone()),
            planned: stored + old.empty,
            stored,
            partial: changed.beyond.partial.clone(),
            unrendered: budgets::unrendered(
                &self.look.state.unrendered,
                |tile| changed.dirty.is_marked(tile),
                &budgets::failed_tiles(outcome),
            ),
            started: self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            seconds: self.begun.elapsed().as_secs_f64(),
            publication: Some(self.publication.clone()),
            ..parts
        }
    }
}
