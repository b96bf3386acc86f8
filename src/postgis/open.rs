//! Opening the workers of a run: sessions on one snapshot.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::error::Error;
use super::layer::Layer;
use super::prepared::Prepared;
use super::render::Renderer;
use super::session::Database;
use super::snapshot::Snapshot;
use super::sql;
use crate::encode::Packing;

impl Renderer {
    /// Opens a session on the snapshot, with locks on all that the layers read.
    async fn open(
        database: &Database,
        snapshot: &Arc<Snapshot>,
        layers: &[Layer],
        packing: Packing,
    ) -> Result<Renderer, Error> {
        let session = database.on(snapshot).await?;
        session.hold(layers).await?;
        Ok(Renderer { session: Some(session), ..Renderer::without_session(database, snapshot, layers, packing) })
    }

    /// So many at once, side by side: the server takes a moment for each. Each holds locks on all that the layers read; the session that
    /// holds the snapshot does so already.
    ///
    /// # Errors
    /// If a session cannot be opened, has to wait too long for a lock, or the server has no room for so many locks.
    pub async fn several(
        database: &Database,
        snapshot: &Arc<Snapshot>,
        layers: &[Layer],
        packing: Packing,
        many: usize,
    ) -> Result<Vec<Renderer>, Error> {
        if many > 0 {
            snapshot.keeper.has_room_for(many).await?;
        }
        try_join_all((0..many).map(|_| Renderer::open(database, snapshot, layers, packing))).await
    }

    /// Has the server load what rendering takes, which takes a new session a while: to be done while something else is waited for.
    ///
    /// # Errors
    /// If the session is lost, or a stop was asked for.
    pub async fn warm(&self) -> Result<(), Error> {
        let Some(Prepared { layer, .. }) = self.layers.first() else { return Ok(()) };
        match self.session().all("opening a session", &sql::warm(layer), &[]).await {
            Ok(_) => Ok(()),
            // What is wrong, the first batch will say.
            Err(Error::Query { .. } | Error::Timeout { .. }) => self.session().restart().await,
            Err(other) => Err(other),
        }
    }

    /// Uses the session that holds the snapshot: for little work, before which no other session needs to be opened. It is the
    /// only one that uses it.
    ///
    /// # Errors
    /// If the session is lost.
    pub async fn alone(
        database: &Database,
        snapshot: &Arc<Snapshot>,
        layers: &[Layer],
        packing: Packing,
    ) -> Result<Renderer, Error> {
        snapshot.keeper.save().await?;
        Ok(Renderer::without_session(database, snapshot, layers, packing))
    }

    fn without_session(database: &Database, snapshot: &Arc<Snapshot>, layers: &[Layer], packing: Packing) -> Renderer {
        Renderer {
            database: database.clone(),
            snapshot: Arc::clone(snapshot),
            session: None,
            layers: layers.iter().map(Prepared::of).collect(),
            packing,
        }
    }
}
