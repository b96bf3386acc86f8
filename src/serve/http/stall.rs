//! How slowly a client may take an answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::unread::{Cut, Sending, UnreadAnswers, UnreadHold};

/// The bytes that a client has to take within the time limit, unless the rest of the answer is less: 4 kB in 30 s is
/// what a connection of 4.4 kB/s gives each of 32 streams. Without a least rate, a client that takes a byte now and
/// then would keep its answers in memory for years.
const MIN_PROGRESS: usize = 4 << 10;

/// Watches how a client takes what is sent on a connection or stream.
pub(crate) struct Progress {
    limit: Duration,
    sending: Arc<Sending>,
    unread: UnreadAnswers,
    waiting: Option<Waiting>,
    /// What has counted the memory of the answer so far.
    counted: Option<UnreadHold>,
}

/// The client has accepted no more for now.
struct Waiting {
    /// When it must have taken [`MIN_PROGRESS`].
    deadline: Pin<Box<Sleep>>,
    /// The bytes that it has taken meanwhile.
    taken: usize,
    /// The answer in the table of unread ones.
    _hold: Option<UnreadHold>,
}

impl Progress {
    /// Watches what is noted in `sending`. `limit` is the time for [`MIN_PROGRESS`].
    pub(crate) const fn new(limit: Duration, sending: Arc<Sending>, unread: UnreadAnswers) -> Progress {
        Progress { limit, sending, unread, waiting: None, counted: None }
    }

    /// Notes what counts the memory of the answer until the answer counts by itself.
    pub(crate) fn counted_by(self, hold: Option<UnreadHold>) -> Progress {
        Progress { counted: hold, ..self }
    }

    /// The client accepts no more for now. Ready if the answer has to end for that.
    pub(crate) fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<Cut> {
        if self.waiting.is_none() {
            let deadline = Box::pin(tokio::time::sleep(self.limit));
            self.waiting = Some(Waiting { deadline, taken: 0, _hold: self.unread.hold(&self.sending) });
            // Only now, so that the memory counts all the time; its bytes are the same and count once.
            self.counted = None;
            self.sending.waits(true);
        }
        let is_cut = self.sending.is_cut(context);
        let Some(waiting) = self.waiting.as_mut() else { return Poll::Pending };
        let cut = if is_cut {
            Cut::Memory
        } else {
            ready!(waiting.deadline.as_mut().poll(context));
            Cut::Slow
        };
        self.unread.count(cut);
        Poll::Ready(cut)
    }

    /// The client has taken some bytes.
    pub(crate) fn took(&mut self, bytes: usize) {
        if let Some(waiting) = &mut self.waiting {
            waiting.taken += bytes;
            if waiting.taken >= MIN_PROGRESS {
                waiting.taken = 0;
                waiting.deadline.as_mut().reset(Instant::now() + self.limit);
            }
        }
    }

    /// The client has taken everything.
    pub(crate) fn finished(&mut self) {
        if self.waiting.take().is_some() {
            self.sending.waits(false);
        }
    }
}

/// A connection that fails if its client takes less than [`MIN_PROGRESS`] within the limit while there is more to
/// write, or if the memory of its answer is needed.
pub(crate) struct StallLimit<C> {
    connection: C,
    progress: Progress,
    /// Bytes that were read ahead and are not consumed yet.
    ahead: Bytes,
}

/// What a client of HTTP/2 sends first (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<C> StallLimit<C> {
    /// Puts a connection under the limit.
    pub(crate) const fn new(connection: C, progress: Progress) -> StallLimit<C> {
        StallLimit { connection, progress, ahead: Bytes::new() }
    }

    fn limited<T>(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            return poll;
        }
        ready!(self.progress.poll_waiting(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn written(&mut self, context: &mut Context<'_>, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &poll {
            self.progress.took(*bytes);
        }
        self.limited(context, poll)
    }
}

impl<C: AsyncRead + Unpin> StallLimit<C> {
    /// True if the client speaks HTTP/2: reads until that is clear. Whoever reads next gets these bytes again.
    pub(crate) async fn is_http2(&mut self) -> io::Result<bool> {
        let mut begin = [0; 1 << 10];
        let mut length = 0;
        loop {
            let read = self.connection.read(&mut begin[length..]).await?;
            length += read;
            let compared = length.min(HTTP2_PREFACE.len());
            let may_be = begin[..compared] == HTTP2_PREFACE[..compared];
            if read == 0 || !may_be || compared == HTTP2_PREFACE.len() {
                self.ahead = Bytes::copy_from_slice(&begin[..length]);
                return Ok(may_be && compared == HTTP2_PREFACE.len());
            }
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for StallLimit<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.connection).poll_read(context, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for StallLimit<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.connection).poll_write(context, bytes);
        self.written(context, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.connection).poll_write_vectored(context, slices);
        self.written(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.connection).poll_flush(context);
        if poll.is_ready() {
            // The HTTP libraries flush when they have nothing left to write.
            self.progress.finished();
        }
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

    /// A connection whose client takes `step` bytes, `times` times within the limit, for three times the limit: how it
    /// ended, if it did.
    async fn taken(step: usize, times: u32) -> Option<io::ErrorKind> {
        let limit = Duration::from_millis(300);
        let (server, mut client) = tokio::io::duplex(64);
        let progress = Progress::new(limit, Arc::default(), UnreadAnswers::new(1 << 20));
        let mut server = StallLimit::new(server, progress);
        let answer = vec![7; 1 << 20];
        let begun = Instant::now();
        let reading = async {
            while begun.elapsed() < 3 * limit {
                tokio::time::sleep(limit / times).await;
                client.read_exact(&mut vec![0; step]).await.unwrap();
            }
        };
        let writing = server.write_all(&answer);
        tokio::select! {
            () = reading => None,
            ended = writing => Some(ended.unwrap_err().kind()),
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_next_to_nothing_is_cut_off_and_a_slow_one_is_not() {
        let (slow, trickling, stalled) = tokio::join!(taken(2 << 10, 4), taken(1, 8), taken(1 << 10, 1));
        assert_eq!(slow, None);
        assert_eq!(trickling, Some(io::ErrorKind::TimedOut), "a byte now and then is not enough");
        assert_eq!(stalled, Some(io::ErrorKind::TimedOut));
    }
}
