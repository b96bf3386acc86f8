//! The bodies of requests and answers. The body of an answer is complete bytes, or events that are sent as long as the
//! client stays connected.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc::Receiver;

use super::peers::ClientKey;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// The complete body, and the client that it is for.
    Full(Bytes, ClientKey),
    /// Parts, each sent as soon as it arrives; the answer ends when the sender is dropped.
    Events(Receiver<Bytes>),
}

impl AnswerBody {
    /// Says which client the body is for.
    pub(crate) const fn is_for(&mut self, client: ClientKey) {
        if let AnswerBody::Full(_, of) = self {
            *of = client;
        }
    }
}

impl Default for AnswerBody {
    fn default() -> AnswerBody {
        AnswerBody::from(Bytes::new())
    }
}

impl From<Bytes> for AnswerBody {
    fn from(bytes: Bytes) -> AnswerBody {
        AnswerBody::Full(bytes, ClientKey::default())
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            AnswerBody::Full(bytes, _) if bytes.is_empty() => Poll::Ready(None),
            AnswerBody::Full(bytes, _) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            AnswerBody::Events(events) => {
                events.poll_recv(context).map(|event| event.map(|text| Ok(Frame::data(text))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, AnswerBody::Full(bytes, _) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Full(bytes, _) => SizeHint::with_exact(bytes.len() as u64),
            AnswerBody::Events(_) => SizeHint::default(),
        }
    }
}

/// The body of a request. It is received only as far as it is read.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Http1(Incoming),
    Http2(RecvStream),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            RequestBody::Http1(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            RequestBody::Http2(body) => {
                let Some(read) = ready!(body.poll_data(context)) else { return Poll::Ready(None) };
                // The client may send as much again.
                let released = read.and_then(|bytes| body.flow_control().release_capacity(bytes.len()).map(|()| bytes));
                Poll::Ready(Some(released.map(Frame::data).map_err(Into::into)))
            }
        }
    }
}
