//! The sessions that the benchmark refreshes: made in bulk, with secrets that both sides can compute.

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

/// Fills the table as so many logins would have done: ten sessions a user.
pub async fn fill(admin: &Client, count: usize) -> Vec<Session> {
    eprintln!("filling: {count} sessions");
    let fill = format!(
        "insert into auth.users (id, email, name)
         select ('be7c0000-0000-4000-9000-' || lpad(to_hex(n), 12, '0'))::uuid, 'user' || n || '@bench.test', 'User ' || n
           from generate_series(0, {users}) n;
         insert into auth.sessions
           (id, family_id, user_id, created_at, auth_time, expires_at, idle_ttl, amr, lineage_key, device_hash, device_name,
            user_agent, last_ip_cidr, last_used_at, idle_expires_at, token_verifier)
         select id, id, ('be7c0000-0000-4000-9000-' || lpad(to_hex(n / 10), 12, '0'))::uuid,
                now(), now(), now() + interval '30 days', interval '7 days', array['pwd'], sha256(id::text::bytea),
                sha256('device'), 'Chrome 120 on macOS',
                'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36',
                '192.0.2.0/24', now(), now() + interval '7 days', sha256(sha256((n || ' 0')::bytea))
           from (select n, ('be7c0000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid as id
                   from generate_series(0, {last}) n) numbered
          order by md5(n::text);
         vacuum analyze auth.sessions;
         checkpoint;\n",
        users = count / 10,
        last = count - 1,
    );
    for statement in fill.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        // One by one: VACUUM will not run in the transaction that a batch is.
        admin.batch_execute(statement).await.expect("filling");
    }
    (0..count as u32).map(|number| Session { number, generation: 0 }).collect()
}
