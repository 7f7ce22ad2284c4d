//! The clients: each owns a share of the sessions, knows their tokens, and sends one statement after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use auth_sessions_tests::TestDb;
use auth_sessions_tests::tokens::random_bytes;
use tokio_postgres::{Client, Statement as Prepared};

use crate::sessions::Session;

/// What a client sends for one refresh.
#[derive(Clone, Copy, PartialEq)]
pub enum Statement {
    /// The yardstick: one column, by primary key, as superuser, so without policies.
    BareUpdate,
    /// `auth.rotate_session_token`, as the service.
    Rotation {
        /// `auth_sessions.audit_level`.
        audit_level: &'static str,
    },
    /// What an application without this extension would do: read under lock, compare, write, in a transaction.
    ClientSide,
}

/// What a load did.
pub struct Done {
    /// Refreshes.
    pub refreshes: u64,
    /// From the release of all clients to the last answer.
    pub elapsed: Duration,
}

/// Every session once.
pub async fn pass(db: &TestDb, sessions: &mut [Session], clients: usize, statement: Statement) -> Done {
    run(db, sessions, clients, statement, "off", None).await
}

/// As many refreshes as fit into that time, of sessions in shuffled order.
pub async fn during(
    db: &TestDb,
    sessions: &mut [Session],
    clients: usize,
    statement: Statement,
    synchronous_commit: &str,
    time: Duration,
) -> Done {
    run(db, sessions, clients, statement, synchronous_commit, Some(time)).await
}

async fn run(
    db: &TestDb,
    sessions: &mut [Session],
    clients: usize,
    statement: Statement,
    synchronous_commit: &str,
    time: Option<Duration>,
) -> Done {
    let barrier = Arc::new(tokio::sync::Barrier::new(clients + 1));
    let stop = Arc::new(AtomicBool::new(false));
    let share = sessions.len().div_ceil(clients);
    let mut workers = Vec::new();
    for own in sessions.chunks(share) {
        let client = connect(db, statement, synchronous_commit).await;
        let prepared = prepare(&client, statement).await;
        let (barrier, stop, mut own) = (barrier.clone(), stop.clone(), own.to_vec());
        let endless = time.is_some();
        workers.push(tokio::spawn(async move {
            let order = shuffled(own.len());
            barrier.wait().await;
            let mut refreshes = 0;
            'work: loop {
                for &index in &order {
                    if stop.load(Ordering::Relaxed) {
                        break 'work;
                    }
                    refresh(&client, &prepared, statement, &mut own[index]).await;
                    refreshes += 1;
                }
                if !endless {
                    break;
                }
            }
            (own, refreshes)
        }));
    }
    barrier.wait().await;
    let start = Instant::now();
    if let Some(time) = time {
        tokio::time::sleep(time).await;
        stop.store(true, Ordering::Relaxed);
    }
    let mut refreshes = 0;
    for (worker, own) in workers.into_iter().zip(sessions.chunks_mut(share)) {
        let (changed, count) = worker.await.expect("a client");
        own.clone_from_slice(&changed);
        refreshes += count;
    }
    Done { refreshes, elapsed: start.elapsed() }
}

async fn connect(db: &TestDb, statement: Statement, synchronous_commit: &str) -> Client {
    let admin = db.superuser().await;
    if let Statement::Rotation { audit_level } = statement {
        db.set("auth_sessions.audit_level", audit_level).await;
    }
    let client = match statement {
        Statement::Rotation { .. } => db.connect_as("auth_service").await,
        Statement::BareUpdate | Statement::ClientSide => admin,
    };
    client.batch_execute(&format!("set synchronous_commit = {synchronous_commit}")).await.expect("set");
    client
}

async fn prepare(client: &Client, statement: Statement) -> Vec<Prepared> {
    let texts: &[&str] = match statement {
        Statement::BareUpdate => &["update auth.sessions set last_used_at = clock_timestamp() where id = $1"],
        Statement::Rotation { .. } => {
            &["select * from auth.rotate_session_token($1, $2, $3, $4, $5, $6, '192.0.2.7', 'bench', null, 'bench')"]
        }
        Statement::ClientSide => &[
            "begin",
            "select user_id, generation, token_verifier, revoked_at, idle_expires_at, expires_at from auth.sessions
              where id = $1 for no key update",
            "update auth.sessions
                set generation = generation + 1, last_used_at = clock_timestamp(), rotated_at = clock_timestamp(),
                    idle_expires_at = clock_timestamp() + idle_ttl, previous_token_verifier = token_verifier,
                    token_verifier = $2, rotation_nonce = $3
              where id = $1",
            "commit",
        ],
    };
    let mut prepared = Vec::new();
    for text in texts {
        prepared.push(client.prepare(text).await.expect(text));
    }
    prepared
}

async fn refresh(client: &Client, prepared: &[Prepared], statement: Statement, session: &mut Session) {
    let id = session.id();
    match statement {
        Statement::BareUpdate => {
            let changed = client.execute(&prepared[0], &[&id]).await.expect("update");
            assert_eq!(changed, 1);
        }
        Statement::Rotation { .. } => {
            // The fast path knows the token by its verifier; any ticket of the right length will do.
            let ticket = [0_u8; 16];
            let (proof, verifier, nonce) = (session.proof(), session.next_verifier(), random_bytes(16));
            let row = client
                .query_one(&prepared[0], &[&id, &session.generation, &&ticket[..], &proof, &verifier, &nonce])
                .await
                .expect("rotate_session_token");
            assert_eq!(row.get::<_, &str>("outcome"), "rotated");
            session.generation += 1;
        }
        Statement::ClientSide => {
            client.execute(&prepared[0], &[]).await.expect("begin");
            let row = client.query_one(&prepared[1], &[&id]).await.expect("select");
            assert_eq!(row.get::<_, i32>("generation"), session.generation);
            let (verifier, nonce) = (session.next_verifier(), random_bytes(16));
            client.execute(&prepared[2], &[&id, &verifier, &nonce]).await.expect("update");
            client.execute(&prepared[3], &[]).await.expect("commit");
            session.generation += 1;
        }
    }
}

/// The numbers below `count` in an order that looks random and is always the same: a step that is coprime to all counts
/// of interest.
fn shuffled(count: usize) -> Vec<usize> {
    const STEP: usize = 1_000_003;
    let mut order: Vec<usize> = (0..count).map(|index| index.wrapping_mul(STEP) % count).collect();
    order.sort_unstable();
    order.dedup();
    assert_eq!(order.len(), count, "the step divides the count");
    (0..count).map(|index| index.wrapping_mul(STEP) % count).collect()
}
