//! What is sent is watched piece by piece: a line that brings it on isn't cut off, however slow it is; and where nothing goes
//! on, or no answer comes to what was sent, that is noticed soon, however large it was.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A connection is given so much at a time; it takes the next when it has got rid of the one before, but for what the
/// system's buffers hold.
const PIECE: usize = 128 << 10;

/// A body on its way, and when the connection last took a piece of it.
#[derive(Clone)]
pub(super) struct Sending {
    body: Bytes,
    last: Arc<Mutex<Instant>>,
}

impl Sending {
    /// From now on.
    pub(super) fn new(body: Bytes) -> Self {
        Sending { body, last: Arc::new(Mutex::new(Instant::now())) }
    }

    fn idle(&self) -> Duration {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// What comes of the request, unless nothing goes on for so long.
    pub(super) async fn unless_stalled<F: Future>(&self, limit: Duration, request: F) -> Option<F::Output> {
        let mut request = pin!(request);
        loop {
            let left = limit.saturating_sub(self.idle());
            match tokio::time::timeout(left, request.as_mut()).await {
                Ok(output) => return Some(output),
                Err(_) if self.idle() < limit => {}
                Err(_) => return None,
            }
        }
    }
}

/// Without the bytes.
impl fmt::Debug for Sending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

impl Intercept for Sending {
    fn name(&self) -> &'static str {
        "pieces of what is sent"
    }

    /// After it was signed: the signature is over bytes that lie in memory.
    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *context.request_mut().body_mut() = SdkBody::from_body_1_x(Pieces { rest: self.body.clone(), last: Arc::clone(&self.last) });
        Ok(())
    }
}

/// A body that is taken in pieces.
struct Pieces {
    rest: Bytes,
    last: Arc<Mutex<Instant>>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        let piece = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(piece);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn a_body_is_taken_piece_by_piece() {
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 7] {
            let bytes: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let mut body = Pieces { rest: bytes.clone().into(), last: Sending::new(Bytes::new()).last };
            let mut got = Vec::new();
            while !body.is_end_stream() {
                assert_eq!(body.size_hint().exact(), Some((len - got.len()) as u64));
                let frame = run(std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context))).unwrap().unwrap();
                let piece = frame.into_data().unwrap();
                assert!((1..=PIECE).contains(&piece.len()));
                got.extend_from_slice(&piece);
            }
            assert_eq!(got, bytes, "{len}");
            assert!(run(std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context))).is_none());
        }
    }

    #[test]
    fn what_goes_on_is_waited_for() {
        let limit = Duration::from_millis(300);
        // Eight pieces, together later than the limit, none of them by itself.
        let sending = Sending::new(vec![0; 8 * PIECE].into());
        let mut body = Pieces { rest: sending.body.clone(), last: Arc::clone(&sending.last) };
        let request = async {
            while !body.is_end_stream() {
                tokio::time::sleep(limit / 6).await;
                std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
            }
            7
        };
        assert_eq!(run(sending.unless_stalled(limit, request)), Some(7));
        let sending = Sending::new(Bytes::from_static(b"x"));
        assert_eq!(run(sending.unless_stalled(limit, std::future::pending::<()>())), None);
        assert_eq!(run(sending.unless_stalled(Duration::ZERO, async { 7 })), Some(7), "it is there");
    }
}
