//! Sessions taken over from another system, as `auth-api adopt` leaves them, and its tokens presented in SQL.

use tokio_postgres::{Client, Error};
use uuid::Uuid;

use crate::sql::{run, value};
use crate::tokens::{OUTCOME_COLUMNS, Outcome, Token, random_bytes, sha256};

/// Takes over a session of that user with its current token and consumed ones, of a system that kept SHA-256 of tokens
/// (or the tokens themselves).
pub async fn adopt_session(admin: &Client, email: &str, current: &str, consumed: &[&str]) -> Uuid {
    let proofs: Vec<_> = consumed.iter().map(|token| proof_of(token)).collect();
    adopt_session_by_proofs(admin, email, &proof_of(current), &proofs).await
}

/// The same, by what the old system kept.
pub async fn adopt_session_by_proofs(admin: &Client, email: &str, current: &[u8], consumed: &[Vec<u8>]) -> Uuid {
    let session_id = Uuid::new_v4();
    let insert = "insert into auth.sessions (id, family_id, user_id, created_at, auth_time, expires_at, idle_ttl, amr,
                                             lineage_key, last_used_at, idle_expires_at, token_verifier)
                  select $1, $1, id, now() - interval '3 days', now() - interval '3 days', now() + interval '20 days',
                         '7 days', '{pwd}', auth.random_bytes(32), now() - interval '1 day', now() + interval '6 days', $3
                    from auth.users where email = $2";
    assert_eq!(run(admin, insert, &[&session_id, &email, &sha256(current)]).await, 1, "there is no {email}");
    let insert = "insert into auth.adopted_tokens (token_verifier, session_id, is_current) values ($1, $2, $3)";
    run(admin, insert, &[&sha256(current), &session_id, &true]).await;
    for proof in consumed {
        run(admin, insert, &[&sha256(proof), &session_id, &false]).await;
    }
    session_id
}

/// SHA-256 of a token: what the old system kept, and the service shows.
pub fn proof_of(token: &str) -> Vec<u8> {
    sha256(token.as_bytes())
}

/// Presents an old token, as the service does; panics when the statement fails.
pub async fn exchange(service: &Client, token: &str) -> Outcome {
    try_exchange(service, token).await.expect("exchange_adopted_token")
}

/// Presents an old token, as the service does.
pub async fn try_exchange(service: &Client, token: &str) -> Result<Outcome, Error> {
    let nonce = random_bytes(16);
    // What the successor is derived from, in place of a secret of ours.
    let old = Token {
        session_id: Uuid::nil(),
        generation: 0,
        ticket: Vec::new(),
        secret: crate::tokens::Secret(token.as_bytes().to_vec()),
    };
    let row = service
        .query_one(
            &format!("select {OUTCOME_COLUMNS} from auth.exchange_adopted_token($1, $2, $3, correlation_id => 'test')"),
            &[&proof_of(token), &old.successor_secret(&nonce, 1).verifier(), &nonce],
        )
        .await?;
    let outcome = Outcome::from_row(&row);
    match &outcome.rotation_nonce {
        Some(nonce) => {
            let secret = old.successor_secret(nonce, 1);
            Ok(outcome.granting(secret))
        }
        None => Ok(outcome),
    }
}

/// How many of its old tokens are known.
pub async fn adopted_tokens(admin: &Client, session_id: Uuid) -> i64 {
    value(admin, "select count(*) from auth.adopted_tokens where session_id = $1", &[&session_id]).await
}
