//! The sessions that the benchmark refreshes: made in bulk, with secrets that both sides can compute.

use auth_sessions_tests::TestDb;
use auth_sessions_tests::tokens::sha256;
use tokio_postgres::Client;
use uuid::Uuid;

/// One session as its client knows it.
#[derive(Clone)]
pub struct Session {
    number: u32,
    /// How often it was rotated.
    pub generation: i32,
}

impl Session {
    /// Its id.
    pub fn id(&self) -> Uuid {
        Uuid::from_u128(0xbe7c_0000_0000_4000_8000_0000_0000_0000 | u128::from(self.number))
    }

    /// The proof of the current refresh token.
    pub fn proof(&self) -> Vec<u8> {
        self.proof_of(self.generation)
    }

    /// The verifier of the next one.
    pub fn next_verifier(&self) -> Vec<u8> {
        sha256(&self.proof_of(self.generation + 1))
    }

    fn proof_of(&self, generation: i32) -> Vec<u8> {
        sha256(format!("{} {generation}", self.number).as_bytes())
    }
}

/// No checkpoint may fall into a measurement (its full-page images would be counted by chance), and WAL must stay until
/// it has been looked at.
pub async fn prepare_server(admin: &Client) {
    for setting in [
        "alter system set max_wal_size = '64GB'",
        "alter system set checkpoint_timeout = '1d'",
        "select pg_reload_conf()",
        "create extension pg_walinspect",
    ] {
        admin.batch_execute(setting).await.expect(setting);
    }
}

/// Fills the table as so many logins would have done, by two connections at once.
pub async fn fill(db: &TestDb, count: usize) -> Vec<Session> {
    eprintln!("filling: {count} sessions");
    let users = (count / 10).clamp(1, 100_000);
    let admin = db.superuser().await;
    let insert = format!(
        "insert into auth.users (id, email, name)
         select ('be7c0000-0000-4000-9000-' || lpad(to_hex(n), 12, '0'))::uuid, 'user' || n || '@bench.test', 'User ' || n
           from generate_series(0, {}) n",
        users - 1
    );
    admin.batch_execute(&insert).await.expect("users");
    let half = count / 2;
    let (one, other) = (db.superuser().await, db.superuser().await);
    let halves = [insert_sessions(0, half, users, "7 days"), insert_sessions(half, count, users, "7 days")];
    futures_util::future::join(async { one.batch_execute(&halves[0]).await.expect("sessions") }, async {
        other.batch_execute(&halves[1]).await.expect("sessions")
    })
    .await;
    // One by one: VACUUM will not run in the transaction that a batch is.
    admin.batch_execute("vacuum analyze auth.users").await.expect("vacuum");
    admin.batch_execute("vacuum analyze auth.sessions").await.expect("vacuum");
    (0..count as u32).map(|number| Session { number, generation: 0 }).collect()
}

/// Sessions that expired long ago, beside those of [`fill`].
pub async fn fill_expired(admin: &Client, count: usize) {
    eprintln!("filling: {count} sessions that expired long ago");
    // Of the first user, and with numbers that no live session has.
    const FIRST: usize = 1 << 31;
    admin.batch_execute(&insert_sessions(FIRST, FIRST + count, 1, "-60 days")).await.expect("expired sessions");
    admin.batch_execute("vacuum analyze auth.sessions").await.expect("vacuum");
}

/// The foreign key is not asked (its trigger is no part of what is measured): the users are there. `idle` is how far
/// from now the sessions end.
fn insert_sessions(from: usize, to: usize, users: usize, idle: &str) -> String {
    format!(
        "set session_replication_role = replica;
         insert into auth.sessions
           (id, family_id, user_id, created_at, auth_time, expires_at, idle_ttl, amr, lineage_key, device_hash, device_name,
            user_agent, last_ip_cidr, last_used_at, idle_expires_at, token_verifier)
         select id, id, ('be7c0000-0000-4000-9000-' || lpad(to_hex(n % {users}), 12, '0'))::uuid,
                now(), now(), now() + interval '30 days', interval '7 days', array['pwd'], sha256(id::text::bytea),
                sha256('device'), 'Chrome 120 on macOS',
                'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36',
                '192.0.2.0/24', now(), now() + interval '{idle}', sha256(sha256((n || ' 0')::bytea))
           from (select n, ('be7c0000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid as id
                   from generate_series({from}::bigint, {}) n) numbered;",
        to - 1,
    )
}
