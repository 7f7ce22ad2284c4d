//! Live updates of the dashboard, as server-sent events: `GET /dashboard/events` says `changed` when there is something new
//! within the reach of who listens, and nothing of what. The page then asks for its lists and figures again, like anybody.
//!
//! A notification of the database (`auth_events`) is a hint that something may have happened, to somebody. Each stream then
//! reads anew, in the name of its own session: so it says nothing of what others may see, and ends when the session does,
//! or its access token. Without a hint it looks every [`HEARTBEAT`], which is also how a listener that went away is noticed.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream;
use poem::{
    Body, Response, Result, handler,
    http::header,
    web::{Data, Query},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::Instant,
};
use uuid::Uuid;

use super::Asked;
use crate::{
    app::App,
    credential::SessionCredential,
    error::{Code, Problem},
    pages::viewer::Viewer,
};

/// How often a stream looks by itself, and shows that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What happens together is told together; and no stream reads more often, however much happens.
const GATHERING: Duration = Duration::from_millis(500);
/// Streams of this process.
const MOST: usize = 64;
/// Streams of one session: a browser has six connections to a host, and needs some for other things.
const MOST_OF_ONE: usize = 3;
/// When the listening connection broke.
const RETRY: Duration = Duration::from_secs(5);
/// An event's time is taken before its commit: so far back may appear what is new.
const COMMIT_LAG: TimeDelta = TimeDelta::minutes(1);

/// What all streams share.
pub struct Live {
    places: Arc<Semaphore>,
    of_sessions: Arc<Mutex<HashMap<Uuid, usize>>>,
    /// Counts the hints; gone when the process stops.
    hints: Mutex<Option<watch::Sender<u64>>>,
    is_listening: Mutex<bool>,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MOST)),
            of_sessions: Arc::default(),
            hints: Mutex::new(Some(watch::Sender::new(0))),
            is_listening: Mutex::new(false),
        }
    }
}

impl Live {
    /// Ends all streams, so that a stop need not wait for them.
    pub fn stop(&self) {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn subscribe(&self) -> Option<watch::Receiver<u64>> {
        self.hints.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(watch::Sender::subscribe)
    }

    /// False: the process stops.
    fn hint(&self) -> bool {
        let hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        hints.as_ref().is_some_and(|hints| {
            hints.send_modify(|count| *count = count.wrapping_add(1));
            true
        })
    }

    fn place(&self, session: Uuid) -> Result<Place, Problem> {
        let permit = self.places.clone().try_acquire_owned().map_err(|_| Problem::from(Code::Overloaded))?;
        let mut of_sessions = self.of_sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let count = of_sessions.entry(session).or_default();
        if *count >= MOST_OF_ONE {
            return Err(Code::Overloaded.into());
        }
        *count += 1;
        Ok(Place { session, of_sessions: self.of_sessions.clone(), _permit: permit })
    }
}

/// One stream's.
struct Place {
    session: Uuid,
    of_sessions: Arc<Mutex<HashMap<Uuid, usize>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of_sessions = self.of_sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of_sessions.get_mut(&self.session) {
            *count -= 1;
            if *count == 0 {
                of_sessions.remove(&self.session);
            }
        }
    }
}

/// Hears the database's notifications from the first stream on, as long as the process lives.
fn listen(app: &Arc<App>) {
    let mut is_listening = app.live.is_listening.lock().unwrap_or_else(PoisonError::into_inner);
    if std::mem::replace(&mut *is_listening, true) {
        return;
    }
    let app = app.clone();
    tokio::spawn(async move {
        // Whenever it could not hear, something may have been missed.
        while app.live.hint() {
            if app.db.listen(|| _ = app.live.hint()).await {
                // Through a pooler in transaction mode nobody can listen: streams look by themselves.
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    });
}

struct Stream {
    app: Arc<App>,
    who: SessionCredential,
    organization: Option<Uuid>,
    /// What it has seen: so many events since then.
    since: DateTime<Utc>,
    seen: i64,
    hints: watch::Receiver<u64>,
    looked: Instant,
    is_over: bool,
    _place: Place,
}

impl Stream {
    /// What to send next; none: it is over.
    async fn next(&mut self) -> Option<&'static str> {
        if self.is_over {
            return None;
        }
        tokio::select! {
            hint = self.hints.changed() => {
                // The process stops. The browser comes again, to another one.
                hint.ok()?;
                tokio::time::sleep_until(self.looked + GATHERING).await;
                self.hints.mark_unchanged();
            }
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
        self.looked = Instant::now();
        if self.who.expires_at <= Utc::now() {
            return self.end();
        }
        // Each look goes on from the one before, so that none counts more than what happened in between, however long it stays.
        let next = Utc::now() - COMMIT_LAG;
        match self.app.db.oversee_news(&self.who, self.organization, self.since, next).await {
            Ok(Some(news)) => {
                let is_new = news.count != self.seen;
                (self.since, self.seen) = (next, news.count_next);
                Some(if is_new { "event: changed\ndata: 1\n\n" } else { ":\n\n" })
            }
            Ok(None) => self.end(),
            Err(problem) if problem.code() == Code::InvalidAccessToken => self.end(),
            // The database is away: it may come back.
            Err(_) => Some(":\n\n"),
        }
    }

    fn end(&mut self) -> Option<&'static str> {
        self.is_over = true;
        Some("event: ended\ndata: 1\n\n")
    }
}

/// `GET /dashboard/events`
#[handler]
pub async fn events(Data(app): Data<&Arc<App>>, Query(asked): Query<Asked>, viewer: Viewer) -> Result<Response> {
    let Viewer { credential, .. } = viewer;
    let who = credential.session()?;
    let place = app.live.place(who.session_id)?;
    let since = Utc::now() - COMMIT_LAG;
    // Subscribed before the first reading: what comes between is not missed.
    let hints = app.live.subscribe().ok_or_else(|| Problem::from(Code::Overloaded))?;
    let news = app.db.oversee_news(&who, asked.organization, since, since).await?;
    let seen = news.ok_or_else(|| Problem::from(Code::InsufficientRole))?.count_next;
    listen(app);
    let organization = asked.organization;
    let stream = Stream {
        app: app.clone(),
        who,
        organization,
        since,
        seen,
        hints,
        looked: Instant::now(),
        is_over: false,
        _place: place,
    };
    // How long to wait before it connects again; and that there may be something new: between the page and this stream, or
    // while it was not connected.
    let hello = stream::once(async { Ok::<_, io::Error>("retry: 5000\n\nevent: changed\ndata: 1\n\n") });
    let events = stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok(event), stream))
    });
    let body = Body::from_bytes_stream(futures_util::StreamExt::chain(hello, events));
    Ok(Response::builder()
        .content_type("text/event-stream")
        // nginx would gather it otherwise.
        .header("x-accel-buffering", "no")
        .header(header::CACHE_CONTROL, "no-store")
        .body(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_bounded_and_their_places_come_back() {
        let live = Live::default();
        let one = Uuid::from_u128(1);
        let mut places: Vec<Place> = (0..MOST_OF_ONE).map(|_| live.place(one).unwrap()).collect();
        assert_eq!(live.place(one).err().unwrap().code(), Code::Overloaded);
        places.extend((0..MOST - MOST_OF_ONE).map(|n| live.place(Uuid::from_u128(100 + n as u128)).unwrap()));
        assert_eq!(live.place(Uuid::from_u128(2)).err().unwrap().code(), Code::Overloaded);
        drop(places.remove(0));
        live.place(one).unwrap();
        drop(places);
        assert!(live.of_sessions.lock().unwrap().is_empty(), "who left is forgotten");
    }

    #[test]
    fn a_stop_ends_what_waits() {
        let live = Live::default();
        let waiting = live.subscribe().unwrap();
        assert!(live.hint() && waiting.has_changed().unwrap());
        live.stop();
        assert!(waiting.has_changed().is_err() && live.subscribe().is_none() && !live.hint());
    }
}
