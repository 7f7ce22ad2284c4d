//! Works an outbox of the database: takes what is due, delivers a few at once, and reports what became of each.
//!
//! Each is delivered at least once: it is leased, delivered, and reported. Who dies in between leaves the lease to run
//! out, and another one delivers it again, under the same id, by which whoever gets it twice can tell. Any number of
//! processes may do this side by side; the database gives each to one of them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::db::{Outbox, OutboxError};

/// Under way at once. Each has a connection of its own to where it goes, so a slow one holds nobody up.
const AT_ONCE: usize = 8;
/// How much longer than a delivery may take its lease is: time to report it.
const REPORT_TIME: Duration = Duration::from_secs(30);
/// How often a report is tried, a second apart. After that the lease runs out, and it is delivered again.
const REPORTS: u32 = 5;

/// What is delivered, and how.
pub trait Courier: Send + Sync + 'static {
    /// For the log.
    const WHAT: &'static str;
    /// What is in the outbox.
    type Item: Send + Sync + 'static;
    /// What came of a delivery.
    type Outcome: Send + Sync;

    /// Where it comes from.
    fn outbox(&self) -> &Outbox;
    /// How often the outbox is looked into when it does not say that there is news.
    fn poll(&self) -> Duration;
    /// How long a delivery takes at most.
    fn timeout(&self) -> Duration;
    /// Takes up to so many that are due.
    fn claim(&self, room: usize, lease: Duration) -> impl Future<Output = Result<Vec<Self::Item>, OutboxError>> + Send;
    /// Delivers one; ends within the time-out.
    fn deliver(&self, item: &Self::Item) -> impl Future<Output = Self::Outcome> + Send;
    /// Tells the database, and the log, what came of it. An error is a report that did not get through.
    fn report(
        &self,
        item: &Self::Item,
        outcome: &Self::Outcome,
    ) -> impl Future<Output = Result<(), OutboxError>> + Send;
}

/// A courier at work.
pub struct AtWork {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl AtWork {
    /// Sends one to work.
    pub fn start(courier: impl Courier) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self { stop, task: tokio::spawn(work(Arc::new(courier), stopped)) }
    }

    /// Takes no more, and returns when what is under way is delivered and reported.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

async fn work<C: Courier>(courier: Arc<C>, mut stopped: watch::Receiver<bool>) {
    let what = C::WHAT;
    let lease = courier.timeout() + REPORT_TIME;
    let mut under_way = JoinSet::new();
    let mut was_reached = true;
    while !*stopped.borrow() {
        while under_way.try_join_next().is_some() {}
        let room = AT_ONCE - under_way.len();
        let claimed = if room == 0 { Ok(vec![]) } else { courier.claim(room, lease).await };
        let is_reached = claimed.is_ok();
        let items = claimed.unwrap_or_else(|why| {
            if was_reached {
                tracing::warn!(why, "the outbox cannot be reached: {what} waits");
            }
            vec![]
        });
        if is_reached && !was_reached {
            tracing::info!("the outbox can be reached again: {what} goes on");
        }
        was_reached = is_reached;
        // As many as there was room for: there may be more, as soon as there is room again.
        let may_be_more = items.len() == room;
        for item in items {
            let courier = courier.clone();
            under_way.spawn(async move { handle(&*courier, item).await });
        }
        tokio::select! {
            _ = stopped.changed() => {}
            Some(_) = under_way.join_next(), if may_be_more => {}
            () = courier.outbox().news(), if is_reached => {}
            () = tokio::time::sleep(courier.poll()) => {}
        }
    }
    while under_way.join_next().await.is_some() {}
}

async fn handle<C: Courier>(courier: &C, item: C::Item) {
    let outcome = courier.deliver(&item).await;
    for _ in 0..REPORTS {
        match courier.report(&item, &outcome).await {
            Ok(()) => return,
            Err(why) => tracing::warn!(what = C::WHAT, why, "what became of a delivery could not be told"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
