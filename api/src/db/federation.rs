//! Sessions of people that an OpenID provider vouches for. These functions are for the pool that logged in as
//! `auth_federation`, which cannot even read whom it logged in: that is asked of the service's own pool, with the proof.

use chrono::{DateTime, Utc};

use deadpool_postgres::tokio_postgres::Row;
use uuid::Uuid;

use super::{AccessGrant, Db, Grant, Lifetimes, Profile, bytes, named, sessions::unknown_outcome};
use crate::{credential::SessionCredential, device::Caller, error::Problem, oidc::Person, refresh_token::TokenSecret};

/// The answer to an ID token.
pub enum Federated {
    /// A session is open.
    LoggedIn(Opened),
    /// The token was shown before, or has expired, or its person is disabled.
    Refused(String),
    /// There is an account with the address that must not be given away by it.
    EmailNotLinkable,
}

/// The answer to a step-up by ID token.
pub enum FederatedStepUp {
    /// Proved; the session goes on.
    SteppedUp(Opened),
    /// The token is somebody else's, too old, or was shown before.
    Refused(String),
    /// The session is over.
    Ended,
}

/// An open session; whose it is, is not known yet.
pub struct Opened(Row);

impl Db {
    /// Opens a session for a verified ID token; once.
    pub async fn open_federated_session(
        &self,
        person: &Person,
        token: &TokenSecret,
        lifetimes: Lifetimes,
        caller: &Caller,
    ) -> Result<Federated, Problem> {
        let sql = "select r.* from auth.open_federated_session(provider => $1, subject => $2, email => $3, \
                email_verified => true, name => $4, id_token_digest => $5, id_token_expires_at => $6, \
                token_verifier => $7, authenticated_at => $8, idle_ttl => make_interval(secs => $9), ip => $10, \
                user_agent => $11, device_hash => $12, device_name => $13, correlation_id => $14, is_shared => $15, \
                max_age => make_interval(secs => $16), retry_window => make_interval(secs => $17)) r";
        let row = self
            .one(
                sql,
                &[
                    &person.provider,
                    &person.subject,
                    &person.email,
                    &person.name,
                    &person.digest.as_slice(),
                    &person.expires_at,
                    &token.verifier().as_slice(),
                    &person.authenticated_at as &Option<DateTime<Utc>>,
                    &lifetimes.idle,
                    &caller.ip,
                    &caller.user_agent,
                    &caller.device_hash.as_ref().map(<[u8; 32]>::as_slice),
                    &caller.device_name,
                    &caller.request_id,
                    &lifetimes.is_shared,
                    &lifetimes.max_age,
                    &lifetimes.retry_window,
                ],
            )
            .await?;
        match named(&row, "outcome")? {
            "logged_in" => Ok(Federated::LoggedIn(Opened(row))),
            "email_not_linkable" => Ok(Federated::EmailNotLinkable),
            outcome @ ("already_used" | "expired" | "disabled" | "email_not_verified") => {
                Ok(Federated::Refused(outcome.to_owned()))
            }
            outcome => Err(unknown_outcome(outcome)),
        }
    }

    /// Moves a session's `auth_time`, for an ID token of its own user; once.
    pub async fn step_up_federated(
        &self,
        who: &SessionCredential,
        person: &Person,
        caller: &Caller,
    ) -> Result<FederatedStepUp, Problem> {
        let sql = "select r.* from auth.step_up_federated(session_id => $1, jti => $2, provider => $3, subject => $4, \
                id_token_digest => $5, id_token_expires_at => $6, authenticated_at => $7, ip => $8, user_agent => $9, \
                correlation_id => $10) r";
        let row = self
            .one(
                sql,
                &[
                    &who.session_id,
                    &who.jti,
                    &person.provider,
                    &person.subject,
                    &person.digest.as_slice(),
                    &person.expires_at,
                    // Who asks for a token now without saying when they proved it, did so when it was issued.
                    &person.authenticated_at.unwrap_or(person.issued_at),
                    &caller.ip,
                    &caller.user_agent,
                    &caller.request_id,
                ],
            )
            .await?;
        match named(&row, "outcome")? {
            "stepped_up" => Ok(FederatedStepUp::SteppedUp(Opened(row))),
            "ended" => Ok(FederatedStepUp::Ended),
            outcome => Ok(FederatedStepUp::Refused(outcome.to_owned())),
        }
    }

    /// What an access token for that session is made of, by the session's proof. None: it has been ended already.
    pub async fn access_of(&self, Opened(session): &Opened) -> Result<Option<AccessGrant>, Problem> {
        // The case makes the second call need the first one's row: the planner may not turn them round.
        let sql = "select p.* from auth.assume_session(session_id => $1, jti => $2) a \
            join lateral auth.session_profile(case when a.user_id is not null then $1 end) p on true";
        let (session_id, jti): (Uuid, Uuid) = (named(session, "session_id")?, named(session, "jti")?);
        let Some(profile) = self.optional(sql, &[&session_id, &jti]).await? else { return Ok(None) };
        Ok(Some(AccessGrant {
            session_id,
            jti,
            issued_at: named(session, "issued_at")?,
            auth_time: named(session, "auth_time")?,
            amr: named(session, "amr")?,
            access_expires_at: named(session, "access_expires_at")?,
            profile: Profile::read(&profile)?,
        }))
    }

    /// The same, with what its refresh token is made of.
    pub async fn grant_of(&self, opened: Opened) -> Result<Option<Box<Grant>>, Problem> {
        let Some(access) = self.access_of(&opened).await? else { return Ok(None) };
        let Opened(session) = opened;
        Ok(Some(Box::new(Grant {
            access,
            generation: named(&session, "generation")?,
            ticket: bytes(&session, "ticket")?,
            rotation_nonce: None,
            idle_expires_at: named(&session, "idle_expires_at")?,
            expires_at: named(&session, "expires_at")?,
        })))
    }
}
