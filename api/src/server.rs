//! The HTTP/1.1 server: bounded connections and headers, and a graceful stop.
//!
//! hyper directly, because poem's own server has no time-out for headers: a client that sends them a byte a minute
//! would hold its connection, and the stop, for ever. What hyper itself refuses (400, 431) has no body.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use poem::{
    Endpoint, Request, Response,
    http::{StatusCode, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 10_000;
/// Request line and headers; hyper answers 431 beyond it.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// How long the headers of a request may take, and how long a connection may idle between requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests may go on after the signal to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves until `stop`; then accepts nothing new, and returns when the requests under way are answered.
pub async fn serve(
    listener: TcpListener,
    endpoint: impl Endpoint<Output = Response> + 'static,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let endpoint = Arc::new(endpoint);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_header_size(MAX_HEADER_BYTES);
    tokio::pin!(stop);

    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut stop => break,
        };
        let Some((stream, remote, place)) = accepted else { continue };
        let endpoint = endpoint.clone();
        let service = service_fn(move |request| answer(endpoint.clone(), request, local, remote));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // An error here is a client that went away, or that does not speak HTTP.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(place);
        });
    }

    drop(listener);
    tracing::info!("stopping: requests under way are finished first");
    if tokio::time::timeout(STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, remote)) => {
            // Answers are small and complete: they must not wait for one another.
            let _ = stream.set_nodelay(true);
            Some((stream, remote, place))
        }
        Err(error) => {
            // Out of file descriptors, most likely; asking again at once would only burn the processor.
            tracing::error!(%error, "a connection was not accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn answer(
    endpoint: Arc<impl Endpoint<Output = Response> + 'static>,
    request: hyper::Request<Incoming>,
    local: SocketAddr,
    remote: SocketAddr,
) -> Result<hyper::Response<impl Body<Data: Send, Error: std::error::Error + Send + Sync> + Send>, Infallible> {
    let request: Request = (request, LocalAddr(local.into()), RemoteAddr(remote.into()), Scheme::HTTP).into();
    // In a task of its own: a client that hangs up does not stop what it has begun. So a wrong password is always
    // counted, a connection to the database is never given back in mid-statement, and every request has its line.
    let response = tokio::spawn(async move { endpoint.get_response(request).await }).await;
    Ok(response.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into()).into())
}
