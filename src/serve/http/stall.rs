//! A limit on how long a client may accept no data while an answer is being sent.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a client may accept no data of an answer before its connection is closed.
const WRITE_STALL: Duration = Duration::from_secs(30);

/// A connection that fails if its client accepts no byte for [`WRITE_STALL`] while there is data to write.
pub(crate) struct StallLimit<C> {
    connection: C,
    limit: Duration,
    deadline: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<C> StallLimit<C> {
    /// Puts a connection under the limit.
    pub(crate) fn new(connection: C) -> StallLimit<C> {
        StallLimit::of(connection, WRITE_STALL)
    }

    fn of(connection: C, limit: Duration) -> StallLimit<C> {
        StallLimit { connection, limit, deadline: Box::pin(tokio::time::sleep(limit)), is_waiting: false }
    }

    fn limited<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.is_waiting = false;
            return poll;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            let deadline = Instant::now() + self.limit;
            self.deadline.as_mut().reset(deadline);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for StallLimit<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for StallLimit<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.connection).poll_write(context, bytes);
        self.limited(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.connection).poll_write_vectored(context, slices);
        self.limited(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.connection).poll_flush(context);
        self.limited(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_cut_off_and_a_slow_one_is_not() {
        let limit = Duration::from_millis(300);
        let (server, mut client) = tokio::io::duplex(64);
        let mut server = StallLimit::of(server, limit);
        let answer = vec![7; 64 << 10];
        let begun = Instant::now();
        let reading = async {
            let mut taken = 0;
            // Slow: a piece in a third of the limit, for longer than the limit.
            while begun.elapsed() < 3 * limit {
                tokio::time::sleep(limit / 3).await;
                taken += client.read(&mut [0; 64]).await.unwrap();
            }
            taken
        };
        let writing = server.write_all(&answer);
        tokio::pin!(writing);
        let taken = tokio::select! {
            taken = reading => taken,
            ended = &mut writing => panic!("{ended:?}"),
        };
        assert!(taken >= 128, "{taken}");
        // From here on the client takes nothing.
        assert_eq!(writing.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
