//! The HTTP/1.1 server: bounded connections, headers and patience, and a graceful stop.
//!
//! hyper directly, because poem's own server has no time-out for headers: a client that sends them a byte a minute
//! would hold its connection, and the stop, for ever. So would one that asks and never reads the answer.

use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutStream;

use crate::{client_address::Proxies, limits::network_of, metrics::metrics, refusal_stream::RefusalStream};

/// Request line and headers; hyper answers 431 beyond it.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// File descriptors that are not for clients: the database's connections, the log, and what libraries open.
const OTHER_FILES: usize = 256;
/// How long requests may go on after the signal to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// What clients may take of this process.
#[derive(Clone, Debug)]
pub struct ClientBounds {
    /// Connections at once; more wait in the kernel's queue.
    pub connections: usize,
    /// Connections at once from one network, which is not a proxy's that we trust; more are closed.
    pub connections_per_network: usize,
    /// How long the headers of a request may take, how long a connection may idle between requests, and how long an answer
    /// may wait for a client that does not read it.
    pub patience: Duration,
    /// Whose connections are many people's.
    pub proxies: Proxies,
}

/// Serves until `stop`; then accepts nothing new, and returns when the requests under way are answered.
pub async fn serve(
    listener: TcpListener,
    endpoint: impl Endpoint<Output = Response> + 'static,
    bounds: ClientBounds,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let local = listener.local_addr()?;
    let endpoint = Arc::new(endpoint);
    let graceful = GracefulShutdown::new();
    let places = Places::new(&bounds);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.patience).max_header_size(MAX_HEADER_BYTES);
    tokio::pin!(stop);

    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut stop => break,
        };
        let Some((stream, remote, place)) = accepted else { continue };
        let endpoint = endpoint.clone();
        let service = service_fn(move |request| answer(endpoint.clone(), request, local, remote));
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(bounds.patience));
        let connection = graceful.watch(http.serve_connection(TokioIo::new(RefusalStream::new(stream)), service));
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

async fn accept(listener: &TcpListener, places: &Places) -> Option<(TcpStream, SocketAddr, Place)> {
    let free = places.free.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, remote)) => {
            let place = places.of(remote.ip(), free)?;
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

/// How many connections there are, and whose.
struct Places {
    free: Arc<Semaphore>,
    taken: Arc<Mutex<HashMap<String, usize>>>,
    per_network: usize,
    proxies: Proxies,
}

impl Places {
    fn new(bounds: &ClientBounds) -> Self {
        let files = raise_file_limit().saturating_sub(OTHER_FILES).max(1);
        if files < bounds.connections {
            let wanted = bounds.connections;
            tracing::warn!(wanted, possible = files, "MAX_CONNECTIONS is more than this process may have files open");
        }
        let connections = bounds.connections.min(files);
        metrics().connections_max.inc_by(connections as i64);
        let free = Arc::new(Semaphore::new(connections));
        let proxies = bounds.proxies.clone();
        Self { free, taken: Arc::default(), per_network: bounds.connections_per_network, proxies }
    }

    /// None: its network has as many as one may have.
    fn of(&self, address: IpAddr, free: OwnedSemaphorePermit) -> Option<Place> {
        let network = (!self.proxies.trusts(address.to_canonical())).then(|| network_of(Some(address.to_canonical())));
        if let Some(network) = &network {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            let count = taken.entry(network.clone()).or_default();
            if *count >= self.per_network {
                metrics().connections_refused.inc();
                tracing::debug!("a connection too many from one network was closed");
                return None;
            }
            *count += 1;
        }
        metrics().connections.inc();
        Some(Place { network, taken: self.taken.clone(), _free: free })
    }
}

/// One connection's.
struct Place {
    network: Option<String>,
    taken: Arc<Mutex<HashMap<String, usize>>>,
    _free: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics().connections.dec();
        let Some(network) = self.network.take() else { return };
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = taken.entry(network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// The soft limit of open files, 1,024 on most systems, is for programs that use select(2). Without connections left, the
/// service could not reach its database either.
fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_raised_as_far_as_it_goes() {
        let before = getrlimit(Resource::Nofile);
        let few = Rlimit { current: Some(300), ..before };
        setrlimit(Resource::Nofile, few).unwrap();
        let raised = raise_file_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
        assert_eq!(raised as u64, before.maximum.unwrap_or(usize::MAX as u64));
        assert!(raised > 300);
    }

    #[test]
    fn a_network_has_so_many_places_and_a_trusted_proxy_has_more() {
        let proxies = Proxies::parse("10.0.0.1", "forwarded".parse().unwrap()).unwrap();
        let bounds =
            ClientBounds { connections: 9, connections_per_network: 2, patience: Duration::from_secs(1), proxies };
        let places = Places::new(&bounds);
        let take = |address: &str| {
            let free = places.free.clone().try_acquire_owned().unwrap();
            places.of(address.parse().unwrap(), free)
        };
        let mut taken = vec![take("192.0.2.1").unwrap(), take("192.0.2.99").unwrap()];
        assert!(take("192.0.2.5").is_none() && take("::ffff:192.0.2.5").is_none());
        taken.extend([take("192.0.3.1").unwrap(), take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap()]);
        assert!(take("2001:db8::3").is_none());
        taken.extend(["10.0.0.1"; 3].map(|proxy| take(proxy).unwrap()));
        taken.remove(0);
        assert!(take("192.0.2.5").is_some());
        drop(taken);
        assert!(places.taken.lock().unwrap().is_empty(), "who left is forgotten");
        assert_eq!(places.free.available_permits(), 9);
    }
}
