//! A TCP proxy, before PostgreSQL or before the service, through which the weather is made: connections that are cut between
//! or in the middle of messages, answers that are lost after the commit, bytes that come late, nobody there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A running proxy; ends when dropped.
pub struct Proxy {
    address: SocketAddr,
    weather: Arc<Weather>,
    task: JoinHandle<()>,
}

struct Weather {
    /// The port on 127.0.0.1 of what is behind; it may have another one after a restart.
    target: AtomicU16,
    refuses: AtomicBool,
    delay_micros: AtomicU64,
    answers_to_lose: AtomicU32,
    requests_to_tear: AtomicU32,
    /// Counts the cuts; each connection ends when it changes.
    cuts: watch::Sender<u64>,
    /// Which connections stand still.
    held: watch::Sender<Held>,
    /// How many of them have something to deliver.
    waiting: AtomicU64,
    /// How many connections there were.
    connections: AtomicU64,
}

/// Every so-manieth of the connections with a number below one.
#[derive(Default)]
struct Held {
    below: u64,
    every: u64,
}

impl Held {
    fn holds(&self, number: u64) -> bool {
        number < self.below && number.is_multiple_of(self.every)
    }
}

/// One more, as long as it lives.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToDatabase,
    FromDatabase,
}

impl Proxy {
    /// Starts one on a free port, towards that port on 127.0.0.1.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let weather = Arc::new(Weather {
            target: AtomicU16::new(target),
            refuses: AtomicBool::new(false),
            delay_micros: AtomicU64::new(0),
            answers_to_lose: AtomicU32::new(0),
            requests_to_tear: AtomicU32::new(0),
            cuts: watch::channel(0).0,
            held: watch::channel(Held::default()).0,
            waiting: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, weather.clone()));
        Self { address, weather, task }
    }

    /// Where the service connects.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Where clients of the service connect, when it is between them and the service.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where PostgreSQL, or the service, is now.
    pub fn set_target(&self, port: u16) {
        self.weather.target.store(port, Ordering::Relaxed);
    }

    /// Ends every connection at once, whatever is in it.
    pub fn cut(&self) {
        self.weather.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// From now on, or no longer: whoever connects is turned away, and what was there is cut.
    pub fn set_refuses(&self, refuses: bool) {
        self.weather.refuses.store(refuses, Ordering::Relaxed);
        if refuses {
            self.cut();
        }
    }

    /// How much later than sent everything arrives at most, each way.
    pub fn set_delay(&self, delay: Duration) {
        self.weather.delay_micros.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// Of the connections that there are, every so-manieth stands still, until [`Self::release`].
    pub fn hold(&self, every: u64) {
        self.weather.held.send_replace(Held { below: self.weather.connections.load(Ordering::Relaxed), every });
    }

    /// What was held goes on, whole.
    pub fn release(&self) {
        self.weather.held.send_replace(Held::default());
    }

    /// How many connections stand still with something to deliver.
    pub fn waiting(&self) -> u64 {
        self.weather.waiting.load(Ordering::Relaxed)
    }

    /// The next so many answers are swallowed, and their connections cut: the database has committed, nobody hears of it.
    pub fn lose_answers(&self, count: u32) {
        self.weather.answers_to_lose.store(count, Ordering::Relaxed);
    }

    /// Of the next so many requests only the first half arrives, then their connections are cut.
    pub fn tear_requests(&self, count: u32) {
        self.weather.requests_to_tear.store(count, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Weather {
    fn takes_one(counter: &AtomicU32) -> bool {
        counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

async fn accept(listener: TcpListener, weather: Arc<Weather>) {
    loop {
        // Out of file descriptors or the like: the next one may work.
        let Ok((service, _)) = listener.accept().await else { continue };
        if !weather.refuses.load(Ordering::Relaxed) {
            tokio::spawn(serve(service, weather.clone()));
        }
    }
}

async fn serve(service: TcpStream, weather: Arc<Weather>) {
    let number = weather.connections.fetch_add(1, Ordering::Relaxed);
    let mut cuts = weather.cuts.subscribe();
    let target = weather.target.load(Ordering::Relaxed);
    let Ok(database) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    for side in [&service, &database] {
        // Statements are small: without this, Nagle's algorithm makes weather of its own.
        let _ = side.set_nodelay(true);
    }
    let (from_service, to_service) = service.into_split();
    let (from_database, to_database) = database.into_split();
    tokio::select! {
        () = pump(from_service, to_database, Direction::ToDatabase, number, &weather) => {}
        () = pump(from_database, to_service, Direction::FromDatabase, number, &weather) => {}
        _ = cuts.changed() => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    direction: Direction,
    number: u64,
    weather: &Weather,
) {
    let mut held = weather.held.subscribe();
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let delay = weather.delay_micros.load(Ordering::Relaxed);
        if delay != 0 {
            // Another one each time, so that a later statement may overtake an earlier one.
            tokio::time::sleep(Duration::from_micros(fastrand::u64(..=delay))).await;
        }
        if held.borrow().holds(number) {
            let _waiting = Waiting::new(&weather.waiting);
            if held.wait_for(|held| !held.holds(number)).await.is_err() {
                return;
            }
        }
        let mut bytes = &buffer[..count];
        let is_last = match direction {
            Direction::FromDatabase if Weather::takes_one(&weather.answers_to_lose) => return,
            Direction::ToDatabase if Weather::takes_one(&weather.requests_to_tear) => {
                bytes = &bytes[..count / 2];
                true
            }
            _ => false,
        };
        if to.write_all(bytes).await.is_err() || is_last {
            return;
        }
    }
}
