//! A separate connection that receives notifications (PostgreSQL documentation, "NOTIFY").

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, SimpleQueryMessage, SimpleQueryRow};

use super::Database;
use super::error::ServerName;
use super::error::{Cause, Error};
use super::options::{IDLE_LIMIT, lift};
use crate::stop::Stop;

/// The longest wait for the answer to one statement. The statements take about a millisecond; a connection that broke
/// silently never answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that receives notifications. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Listener {
    /// A message means that notifications arrived since the previous message.
    notified: mpsc::Receiver<()>,
    server: ServerName,
    client: tokio_postgres::Client,
    stop: Stop,
}

impl Listener {
    /// Connects, without listening to a channel yet. Fails if the database cannot be reached in the time that a
    /// connection may take, or a stop is requested.
    pub(crate) async fn open(database: &Database) -> Result<Listener, Error> {
        let server = database.server().clone();
        let lost = |source| Error::Lost { server: server.clone(), during: "while listening".to_owned(), source };
        let (client, mut connection) = tokio::select! {
            connected = tokio::time::timeout(database.connect_limit(), database.separate_connection()) => match connected {
                Ok(connected) => connected.map_err(|error| lost(error.into()))?,
                Err(_elapsed) => return Err(lost(no_answer())),
            },
            _ = database.stop.wait() => return Err(Error::Interrupted),
        };
        let (sender, notified) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(message) = messages.next().await {
                match message {
                    // If the channel is full, a message waits in it already.
                    Ok(AsyncMessage::Notification(_)) => drop(sender.try_send(())),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!("the connection that listens ended: {error}");
                        break;
                    }
                }
            }
        });
        let listener = Listener { notified, server, client, stop: database.stop.clone() };
        // It waits outside of a transaction, for hours if nobody writes. A statement ends, also if it waits for a lock,
        // when nobody waits for its answer any more.
        let limit = (ANSWER_TIMEOUT + Duration::from_secs(1)).as_millis();
        let opening = format!("{} SET statement_timeout = {limit}", lift(&[IDLE_LIMIT], false));
        listener.ask("opening a session", &opening).await?;
        Ok(listener)
    }

    /// Runs statements outside of any transaction, and returns the rows of all of them as texts. Fails if a statement
    /// fails, the server does not answer, or a stop is requested.
    pub(crate) async fn ask(&self, context: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, Error> {
        let answered = tokio::select! {
            answered = tokio::time::timeout(ANSWER_TIMEOUT, self.client.simple_query(sql)) => answered,
            _ = self.stop.wait() => return Err(Error::Interrupted),
        };
        let messages = match answered {
            Ok(Ok(messages)) => messages,
            Err(_elapsed) => return Err(self.lost(no_answer())),
            Ok(Err(error)) => {
                let source = Cause::from(error);
                if source.is_lost() {
                    return Err(self.lost(source));
                }
                if source.is_recovery_conflict() {
                    return Err(Error::Recovery { context: context.to_owned(), source });
                }
                return Err(Error::Query { context: context.to_owned(), next: "Look into the cause", source });
            }
        };
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Waits for the next notification.
    pub(crate) async fn notification(&mut self) -> Result<(), Error> {
        match self.notified.recv().await {
            Some(()) => Ok(()),
            None => Err(self.lost(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into())),
        }
    }

    /// Discards the notifications that arrived until now.
    pub(crate) fn forget(&mut self) {
        while self.notified.try_recv().is_ok() {}
    }

    fn lost(&self, source: Cause) -> Error {
        Error::Lost { server: self.server.clone(), during: "while listening".to_owned(), source }
    }
}

fn no_answer() -> Cause {
    std::io::Error::other("it takes the connection, but does not answer").into()
}
