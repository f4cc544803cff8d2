//! Reads a request's body, bounded in size and in patience.

use std::{
    error::Error,
    future::poll_fn,
    pin::{Pin, pin},
    time::Duration,
};

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};

/// What a body may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// The most bytes, counted as they arrive.
    pub max_bytes: usize,
    /// How long a body may take before its pace matters.
    pub patience: Duration,
    /// How fast it must come after that, on average; at least 1.
    pub min_bytes_per_second: u32,
}

impl BodyLimits {
    /// At most so many bytes, within 10 s or at 1 kB/s.
    pub const fn of(max_bytes: usize) -> Self {
        Self { max_bytes, patience: Duration::from_secs(10), min_bytes_per_second: 1_000 }
    }

    /// When the next bytes must be there.
    fn deadline(&self, start: Instant, received: usize) -> Instant {
        let received = u32::try_from(received).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(1).saturating_mul(received) / self.min_bytes_per_second.max(1);
        start + self.patience + earned
    }
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is too large, as announced or as it came.
    #[error("the body is larger than {max_bytes} bytes")]
    TooLarge {
        /// The most that is taken.
        max_bytes: usize,
    },
    /// It came too slowly, or stopped coming.
    #[error("the body came too slowly")]
    TooSlow,
    /// The connection broke, or what came was no body.
    #[error("the body could not be read")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

impl BodyError {
    /// What to answer: 413, 408 or 400.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Broken(_) => StatusCode::BAD_REQUEST,
        }
    }
}

/// Reads a whole body. One whose `Content-Length` is over the limit is refused unread; one that comes in a
/// single piece is not copied. Trailers are dropped.
pub async fn read_body<B>(body: B, limits: &BodyLimits) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let max_bytes = limits.max_bytes;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > max_bytes {
        return Err(BodyError::TooLarge { max_bytes });
    }
    let mut body = pin!(body);
    let start = Instant::now();
    let mut whole = Gathered::Nothing;
    loop {
        let next = timeout_at(limits.deadline(start, whole.len()), next_chunk(body.as_mut()));
        let chunk = match next.await {
            Err(_) => return Err(BodyError::TooSlow),
            Ok(Some(Err(error))) => return Err(BodyError::Broken(error.into())),
            Ok(Some(Ok(chunk))) => chunk,
            Ok(None) => return Ok(whole.finish()),
        };
        if chunk.len() > max_bytes - whole.len() {
            return Err(BodyError::TooLarge { max_bytes });
        }
        whole = whole.and(chunk, announced);
    }
}

async fn next_chunk<B: Body<Data = Bytes>>(mut body: Pin<&mut B>) -> Option<Result<Bytes, B::Error>> {
    loop {
        match poll_fn(|cx| body.as_mut().poll_frame(cx)).await? {
            Err(error) => return Some(Err(error)),
            Ok(frame) => match frame.into_data() {
                Ok(chunk) if !chunk.is_empty() => return Some(Ok(chunk)),
                Ok(_) | Err(_) => {}
            },
        }
    }
}

/// What has come so far.
enum Gathered {
    Nothing,
    One(Bytes),
    Many(BytesMut),
}

impl Gathered {
    /// The most that is reserved on the word of a `Content-Length`.
    const TRUST: usize = 64 * 1_024;

    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::One(chunk) => chunk.len(),
            Self::Many(chunks) => chunks.len(),
        }
    }

    fn and(self, chunk: Bytes, announced: usize) -> Self {
        match self {
            Self::Nothing => Self::One(chunk),
            Self::One(first) => {
                let least = first.len() + chunk.len();
                let mut chunks = BytesMut::with_capacity(least.max(announced.min(Self::TRUST)));
                chunks.extend_from_slice(&first);
                chunks.extend_from_slice(&chunk);
                Self::Many(chunks)
            }
            Self::Many(mut chunks) => {
                chunks.extend_from_slice(&chunk);
                Self::Many(chunks)
            }
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(chunk) => chunk,
            Self::Many(chunks) => chunks.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body as AxumBody;
    use futures_util::{StreamExt, stream};

    use super::*;

    fn in_chunks(chunks: &[&'static str]) -> AxumBody {
        let chunks: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok::<_, std::io::Error>(Bytes::from_static(chunk.as_bytes())))
            .collect();
        AxumBody::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_the_limit() {
        let five = BodyLimits::of(5);
        for (chunks, whole) in [
            (&[][..], Some("")),
            (&["", "", ""], Some("")),
            (&["12345"], Some("12345")),
            (&["1", "", "23", "45"], Some("12345")),
            (&["123456"], None),
            (&["1", "2", "3", "4", "5", "6"], None),
            (&["12345", "6"], None),
        ] {
            match (read_body(in_chunks(chunks), &five).await, whole) {
                (Ok(body), Some(whole)) => assert_eq!(body, whole.as_bytes()),
                (Err(BodyError::TooLarge { max_bytes: 5 }), None) => {}
                (result, _) => panic!("{chunks:?}: {result:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_announces_too_much_is_refused_unread() {
        struct Announcing;
        impl Body for Announcing {
            type Data = Bytes;
            type Error = std::io::Error;
            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
                panic!("must not be read")
            }
            fn size_hint(&self) -> hyper::body::SizeHint {
                hyper::body::SizeHint::with_exact(6)
            }
        }
        let error = read_body(Announcing, &BodyLimits::of(5)).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_broken_body_is_the_clients_fault() {
        let chunks = [Ok(Bytes::from_static(b"1")), Err(std::io::Error::other("cut"))];
        let error =
            read_body(AxumBody::from_stream(stream::iter(chunks)), &BodyLimits::of(5)).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_must_keep_its_pace() {
        // One chunk of so many bytes a second, without end.
        let dripping = |bytes: usize| {
            AxumBody::from_stream(stream::repeat(()).then(move |()| async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; bytes]))
            }))
        };
        let limits = BodyLimits::of(100_000);
        let start = Instant::now();
        let error = read_body(dripping(1), &limits).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
        assert!(start.elapsed() < Duration::from_millis(10_100), "{:?}", start.elapsed());

        let start = Instant::now();
        let error = read_body(dripping(500), &limits).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::REQUEST_TIMEOUT);
        assert!((19..=21).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());

        let error = read_body(dripping(1_001), &limits).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE, "it came fast enough to be too large");
    }
}
