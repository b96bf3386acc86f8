//! The body of an answer: complete bytes, or events that are sent as long as the client stays connected.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::Receiver;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// The complete body.
    Full(Full<Bytes>),
    /// Parts, each sent as soon as it arrives; the answer ends when the sender is dropped.
    Events(Receiver<Bytes>),
}

impl Default for AnswerBody {
    fn default() -> AnswerBody {
        AnswerBody::Full(Full::default())
    }
}

impl From<Bytes> for AnswerBody {
    fn from(bytes: Bytes) -> AnswerBody {
        AnswerBody::Full(Full::new(bytes))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            AnswerBody::Full(full) => Pin::new(full).poll_frame(context),
            AnswerBody::Events(events) => {
                events.poll_recv(context).map(|event| event.map(|text| Ok(Frame::data(text))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AnswerBody::Full(full) => full.is_end_stream(),
            AnswerBody::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AnswerBody::Full(full) => full.size_hint(),
            AnswerBody::Events(_) => SizeHint::default(),
        }
    }
}
