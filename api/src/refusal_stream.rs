//! A connection on which also hyper's own refusals are problems of RFC 9457.
//!
//! What is no HTTP, or has headers without end, hyper refuses by itself, with a status and no body, before there is a
//! request that any code of ours could answer; it has no hook for that. So they are put right where they are written.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use poem::http::header;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use uuid::Uuid;

use crate::{
    app::REQUEST_ID,
    error::{Code, PROBLEM_JSON, Problem},
};

/// The last line that hyper writes into the head of its own refusals, but for the date.
const NO_BODY: &[u8] = b"content-length: 0\r\n";

/// A connection to a client.
pub struct RefusalStream<S> {
    stream: S,
    /// The refusal that is being written instead of hyper's.
    refusal: Vec<u8>,
}

impl<S: AsyncWrite + Unpin> RefusalStream<S> {
    /// Over this one.
    pub fn new(stream: S) -> Self {
        Self { stream, refusal: Vec::new() }
    }

    /// Writes what is left of a refusal.
    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.refusal.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.refusal))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.refusal.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// Ours for hyper's; None: it is an answer of ours, which always names its request.
fn refusal(written: &[u8]) -> Option<Vec<u8>> {
    let code = match written.strip_prefix(b"HTTP/1.1 ")?.get(..4)? {
        b"400 " => Code::BadRequest,
        b"414 " | b"431 " => Code::HeadersTooLarge,
        _ => return None,
    };
    let find = |part: &[u8]| written.windows(part.len()).position(|window| window == part);
    if !written.ends_with(b"\r\n\r\n") || find(REQUEST_ID.as_str().as_bytes()).is_some() {
        return None;
    }
    let at = find(NO_BODY)?;
    let id = Uuid::new_v4().to_string();
    let problem = Problem::from(code);
    let (status, body) = (code.status(), problem.body(&id));
    tracing::info!(request_id = %id, operation = "none", status = status.as_u16(), "answered");
    let reason = status.canonical_reason().unwrap_or_default();
    let head_end = written.windows(2).position(|window| window == b"\r\n")?;
    let mut answer = format!("HTTP/1.1 {} {reason}", status.as_u16()).into_bytes();
    answer.extend_from_slice(&written[head_end..at]);
    let headers = [
        (header::CONTENT_TYPE, PROBLEM_JSON.to_owned()),
        (header::CONTENT_LENGTH, body.len().to_string()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (REQUEST_ID, id),
    ];
    for (name, value) in headers {
        answer.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    answer.extend_from_slice(&written[at + NO_BODY.len()..]);
    answer.extend_from_slice(body.as_bytes());
    Some(answer)
}

impl<S: AsyncRead + Unpin> AsyncRead for RefusalStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RefusalStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_refusal(context))?;
        match refusal(bytes) {
            Some(refusal) => {
                self.refusal = refusal;
                Poll::Ready(Ok(bytes.len()))
            }
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match parts {
            // A refusal is a head, and nothing after it.
            [only] => self.poll_write(context, only),
            _ => {
                ready!(self.poll_refusal(context))?;
                Pin::new(&mut self.stream).poll_write_vectored(context, parts)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_refusal(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HYPERS: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: Sat, 21 Nov 2026 19:00:00 GMT\r\n\r\n";

    #[tokio::test]
    async fn a_refusal_of_hyper_gets_a_body_also_when_little_is_written_at_once() {
        let (near, mut far) = tokio::io::duplex(7);
        let writing = tokio::spawn(async move {
            let mut stream = RefusalStream::new(near);
            stream.write_all(HYPERS.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut said = String::new();
        far.read_to_string(&mut said).await.unwrap();
        writing.await.unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{said}");
        assert!(head.contains("connection: close") && head.contains("date: Sat") && head.contains("x-request-id: "));
        assert!(body.contains(r#""code":"headers_too_large""#), "{said}");
    }

    #[test]
    fn answers_of_ours_stay_as_they_are() {
        for ours in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\n\r\n{}",
            "{\"HTTP/1.1 400 \": 1}",
        ] {
            assert_eq!(refusal(ours.as_bytes()), None, "{ours}");
        }
    }
}
