//! Waiting for notices of the change log's triggers.

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;

use super::error::{Cause, Error};
use super::layer::quoted;
use super::session::Database;

/// A connection that hears notices. Dropped, it is closed.
#[derive(Debug)]
pub struct Listener {
    heard: mpsc::Receiver<()>,
    server: super::ServerName,
    client: tokio_postgres::Client,
}

impl Listener {
    /// Listens on a channel, and lets those who give notices know by a shared advisory lock that somebody does.
    ///
    /// # Errors
    /// If the database cannot be reached, or is a standby, which has no notices.
    pub async fn open(database: &Database, channel: &str, (class, object): (i32, i32)) -> Result<Listener, Error> {
        let server = database.server().clone();
        let lost = |error| Error::Lost {
            server: server.clone(),
            during: "while listening".to_owned(),
            source: Cause::from(error),
        };
        let (client, mut connection) = database.apart().await.map_err(lost)?;
        let (ring, heard) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(message) = messages.next().await {
                match message {
                    // One that waits already is enough.
                    Ok(AsyncMessage::Notification(_)) => drop(ring.try_send(())),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!("the connection that listens ended: {error}");
                        break;
                    }
                }
            }
        });
        let sql = format!("LISTEN {}; SELECT pg_advisory_lock_shared({class}, {object})", quoted(channel));
        client.batch_execute(&sql).await.map_err(lost)?;
        Ok(Listener { heard, server, client })
    }

    /// Waits for the next notice.
    ///
    /// # Errors
    /// If the connection ended.
    pub async fn notice(&mut self) -> Result<(), Error> {
        match self.heard.recv().await {
            Some(()) => Ok(()),
            None => Err(Error::Lost {
                server: self.server.clone(),
                during: "while listening".to_owned(),
                source: std::io::Error::from(std::io::ErrorKind::ConnectionReset).into(),
            }),
        }
    }

    /// Forgets the notices that came until now.
    pub fn forget(&mut self) {
        while self.heard.try_recv().is_ok() {}
    }

    /// Whether the connection still stands.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.client.is_closed()
    }
}
