//! A database with a past, and clients who hold something of it: for tests of what must not cut them off (an upgrade, a
//! dump and its restore).

use tokio_postgres::Client;

use crate::server::{HMAC_KEY, PEPPER};
use crate::sql::{revoked_reason, run, sqlstate, value};
use crate::tokens::{PASSWORD, Token, log_in, rotate, rotate_times, sign_up, try_sign_up};
use crate::{Server, wire};

/// What clients hold of a database.
pub struct Past {
    current: Token,
    old: Token,
    other_device: Token,
    revoked: Token,
    fake_salt: Vec<u8>,
    newest_event: i64,
}

const FAKE_SALT: &str = "select password_salt from auth.begin_login('nobody@example.org')";

impl Past {
    /// Lets a database live a little: by the functions that version 0.1.0 had already.
    pub async fn live(service: &Client, admin: &Client) -> Self {
        // Events before the first partitions are made, and after; of this month, and of one long gone.
        let founder = try_sign_up(service, "ada@example.org", Some(("Company", "company"))).await.unwrap().token();
        run(admin, "select auth.maintain_audit_partitions()", &[]).await;
        for created_at in ["2020-02-29", "2100-01-01"] {
            let insert = "insert into auth.audit_log (action, severity, success, created_at) values ('x', 'info', true, $1::text::timestamptz)";
            run(admin, insert, &[&created_at]).await;
        }
        let next_month = "insert into auth.audit_log (action, severity, success, created_at) values ('x', 'info', true, now() + interval '1 month')";
        run(admin, next_month, &[]).await;
        run(admin, "select auth.open_recovery_window('1 hour', 5)", &[]).await;
        let tokens = rotate_times(service, founder, 7).await;
        // Somebody by way of a provider, whose token must not be accepted again.
        let link = "insert into auth.identities (provider, subject, user_id, email) select 'https://issuer.example', '1', id, email
                      from auth.users where email = 'ada@example.org'";
        run(admin, link, &[]).await;
        let used = "insert into auth.accepted_id_tokens (digest, expires_at) values (sha256('token'), now() + interval '1 hour')";
        run(admin, used, &[]).await;
        let revoked = sign_up(service, "bob@example.org").await;
        run(admin, "update auth.users set disabled_at = now() where email = 'bob@example.org'", &[]).await;
        Self {
            current: tokens[7].clone(),
            old: tokens[2].clone(),
            other_device: log_in(service, "ada@example.org", PASSWORD).await.token(),
            revoked,
            fake_salt: value(service, FAKE_SALT, &[]).await,
            newest_event: value(admin, "select max(id) from auth.audit_log", &[]).await,
        }
    }

    /// A client goes on over HTTP, at a service that is started on this database; panics when it cannot.
    pub async fn goes_on_over_http(&self, database_url: &str, admin: &Client) {
        // Whose passwords are made up by SQL cannot log in here; the service asks only whether it has the pepper.
        let pepper_id = i32::from_be_bytes(wire::key_id(&PEPPER).try_into().expect("4 bytes"));
        run(admin, "update auth.users set pepper_id = $1", &[&pepper_id]).await;
        let server = Server::start_at(database_url, &[]).await;
        server.api().get("/health/ready", "").await.expect(200);
        let token = wire::RefreshToken::of(&self.other_device).signed_with(&HMAC_KEY);
        let refreshed = server.api().refresh(&token).await.expect(200).session();
        server.api().refresh(&refreshed.refresh_token).await.expect(200);
    }

    /// Everybody else goes on where they were; panics with `how` it came to this when they do not.
    pub async fn goes_on(&self, service: &Client, admin: &Client, how: &str) {
        assert_eq!(value::<Vec<u8>>(service, FAKE_SALT, &[]).await, self.fake_salt, "{how}: still the same");
        assert_eq!(rotate(service, &self.revoked).await.outcome, "revoked", "{how}");
        let refreshed = rotate(service, &self.current).await;
        assert_eq!((refreshed.outcome.as_str(), refreshed.generation), ("rotated", Some(8)), "{how}");
        assert_eq!(rotate(service, &self.old).await.outcome, "replayed", "{how}: an old token is still one");
        let reason = revoked_reason(admin, self.current.session_id).await;
        assert_eq!(reason.as_deref(), Some("token_replay"), "{how}");
        assert_eq!(log_in(service, "ada@example.org", PASSWORD).await.outcome, "logged_in", "{how}");
        let last: i64 = value(admin, "select last_value from auth.audit_log_id_seq", &[]).await;
        assert!(last >= self.newest_event, "{how}: ids go on");
        assert_eq!(value::<i32>(admin, "select auth.maintain_audit_partitions()", &[]).await, 0, "{how}");
        for table in ["auth.audit_log", "auth.audit_log_default"] {
            assert_eq!(sqlstate(admin, &format!("delete from {table}")).await, "42501", "{how}: {table}");
            assert_eq!(sqlstate(admin, &format!("truncate {table}")).await, "42501", "{how}: {table}");
        }
    }
}
