//! Opening, rotating and ending sessions: the functions that take a proof.

use chrono::{DateTime, Utc};
use deadpool_postgres::tokio_postgres::Row;
use uuid::Uuid;

use super::{Db, Params, bytes, column, named};
use crate::{
    adopted_token::{AdoptedToken, Shown},
    device::Caller,
    error::{Code, Problem},
    metrics::metrics,
    password::NewVerifier,
    refresh_token::{Presented, RotationNonce, TokenSecret},
};

/// What an access token is made of, as the database tells it.
pub struct AccessGrant {
    /// The session.
    pub session_id: Uuid,
    /// The database's mark on the access token.
    pub jti: Uuid,
    /// When that mark was minted: the access token's life begins there.
    pub issued_at: DateTime<Utc>,
    /// When the user last proved who they are.
    pub auth_time: DateTime<Utc>,
    /// How (RFC 8176).
    pub amr: Vec<String>,
    /// When the jti stops proving anything to the database.
    pub access_expires_at: DateTime<Utc>,
    /// Whose it is.
    pub profile: Profile,
}

/// An open session, with what its refresh token is made of.
pub struct Grant {
    /// The access token's part.
    pub access: AccessGrant,
    /// How often it was rotated; the token of this answer is of this generation.
    pub generation: i32,
    /// The database's mark on that token.
    pub ticket: [u8; 16],
    /// Only of a rotation: what the token's secret is derived with.
    pub rotation_nonce: Option<RotationNonce>,
    /// When it ends unless it is refreshed.
    pub idle_expires_at: DateTime<Utc>,
    /// When it ends in any case.
    pub expires_at: DateTime<Utc>,
}

/// Who a session belongs to.
pub struct Profile {
    /// The user.
    pub user_id: Uuid,
    /// As typed at sign-up.
    pub email: String,
    /// The user's name.
    pub name: String,
    /// INDIVIDUAL, BUSINESS or ADMIN.
    pub user_type: String,
    /// Whether the e-mail was proved.
    pub email_verified: bool,
    /// When the account was made.
    pub created_at: DateTime<Utc>,
    /// The organization that the session acts for.
    pub organization: Option<Organization>,
    /// The user's roles there.
    pub roles: Vec<String>,
}

/// The organization that a session acts for.
pub struct Organization {
    /// Its id.
    pub id: Uuid,
    /// Its name in URLs.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// The user's role in it.
    pub role: String,
}

impl Profile {
    pub(super) fn read(row: &Row) -> Result<Self, Problem> {
        let organization = match named::<Option<Uuid>>(row, "organization_id")? {
            None => None,
            Some(id) => Some(Organization {
                id,
                slug: named(row, "organization_slug")?,
                name: named(row, "organization_name")?,
                role: named(row, "organization_role")?,
            }),
        };
        Ok(Self {
            user_id: named(row, "user_id")?,
            email: named(row, "email")?,
            name: named(row, "name")?,
            user_type: named(row, "user_type")?,
            email_verified: named(row, "email_verified")?,
            created_at: named(row, "user_created_at")?,
            organization,
            roles: named::<Option<_>>(row, "roles")?.unwrap_or_default(),
        })
    }
}

impl AccessGrant {
    /// Of a row of `auth.session_outcome`, joined with `auth.session_profile`.
    pub(super) fn read(row: &Row) -> Result<Self, Problem> {
        Ok(Self {
            session_id: named(row, "session_id")?,
            jti: named(row, "jti")?,
            issued_at: named(row, "issued_at")?,
            auth_time: named(row, "auth_time")?,
            amr: named(row, "amr")?,
            access_expires_at: named(row, "access_expires_at")?,
            profile: Profile::read(row)?,
        })
    }
}

impl Grant {
    /// The same.
    pub(super) fn read(row: &Row) -> Result<Box<Self>, Problem> {
        let rotation_nonce = match named::<Option<&[u8]>>(row, "rotation_nonce")? {
            None => None,
            Some(_) => Some(bytes(row, "rotation_nonce")?),
        };
        Ok(Box::new(Self {
            access: AccessGrant::read(row)?,
            generation: named(row, "generation")?,
            ticket: bytes(row, "ticket")?,
            rotation_nonce,
            idle_expires_at: named(row, "idle_expires_at")?,
            expires_at: named(row, "expires_at")?,
        }))
    }
}

/// The answer to a refresh.
pub enum Rotation {
    /// Rotated, or the same successor again.
    Granted(Box<Grant>),
    /// The token is shared and was given out a moment ago: it stays as it is.
    Retained(Box<Grant>),
    /// Genuine, but refreshed too often: good again after so many seconds.
    Limited(f64),
    /// Shown before its session moved on, judged after: nothing changed.
    Overtaken,
    /// Anything else: replayed, revoked, expired, unknown, ahead, device_mismatch. Already committed.
    Refused(String),
}

impl Rotation {
    fn read(row: &Row) -> Result<Self, Problem> {
        let outcome = named(row, "outcome")?;
        metrics().refreshes.count(outcome);
        Ok(match outcome {
            "rotated" | "retried" => Self::Granted(Grant::read(row)?),
            "retained" => Self::Retained(Grant::read(row)?),
            "limited" => Self::Limited(named::<Option<f64>>(row, "retry_after_seconds")?.unwrap_or_default()),
            "overtaken" => Self::Overtaken,
            outcome => Self::Refused(outcome.to_owned()),
        })
    }
}

/// The answer to a sign-up.
pub enum SignUp {
    /// User, organization and session exist.
    SignedUp(Box<Grant>),
    /// Nothing was made.
    EmailTaken,
    /// Nothing was made.
    SlugTaken,
    /// Nothing was made.
    SlugReserved,
}

/// What to hash a password with.
pub struct LoginChallenge {
    /// The salt, a steady fake for an unknown e-mail.
    pub salt: Vec<u8>,
    /// Argon2 parameters as text.
    pub params: String,
    /// Which pepper.
    pub pepper_id: i32,
    /// Moves with each change of the password.
    pub verifier_version: i32,
    /// Seconds, while the account is locked.
    pub retry_after: Option<f64>,
}

/// The answer to a login.
pub enum Login {
    /// A session is open.
    LoggedIn(Box<Grant>),
    /// Unknown e-mail, wrong password, disabled: counted.
    Refused,
    /// For so many seconds.
    Locked(f64),
    /// The password changed since the challenge: start again.
    Stale,
}

/// How long a session is to live, in seconds. The database cuts each to what it grants.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// After its last refresh.
    pub idle: f64,
    /// After the login; none: as long as is granted.
    pub max_age: Option<f64>,
    /// For a repeated refresh; none: as is set.
    pub retry_window: Option<f64>,
    /// Whether several tabs share its refresh token, as they do a cookie.
    pub is_shared: bool,
}

/// What a sign-up brings, checked.
pub struct NewAccount<'a> {
    /// The e-mail.
    pub email: &'a str,
    /// The user's name.
    pub name: &'a str,
    /// INDIVIDUAL or BUSINESS; none: the database's default.
    pub user_type: Option<&'a str>,
    /// Name and slug of an organization to found.
    pub organization: Option<(&'a str, &'a str)>,
    /// Of the organization.
    pub description: Option<&'a str>,
    /// Of the organization.
    pub website: Option<&'a str>,
}

impl Db {
    /// Rotates a refresh token: ONE statement, one round trip, committed when this returns.
    pub async fn rotate_session_token(
        &self,
        presented: &Presented<'_>,
        next_verifier: [u8; 32],
        nonce: RotationNonce,
        caller: &Caller,
    ) -> Result<Rotation, Problem> {
        // Before anything is waited for.
        let received_at = self.clock.now();
        let sql = "select r.*, extract(epoch from r.retry_after)::float8 as retry_after_seconds, p.*, \
                clock_timestamp() as database_time \
            from auth.rotate_session_token(session_id => $1, generation => $2, ticket => $3, token_proof => $4, \
                next_token_verifier => $5, rotation_nonce => $6, ip => $7, user_agent => $8, device_hash => $9, \
                correlation_id => $10, received_at => $11) r \
            left join lateral auth.session_profile(r.session_id) p on true";
        let row = self
            .one(
                sql,
                &[
                    &presented.session_id,
                    &presented.generation,
                    &presented.ticket.as_slice(),
                    &presented.secret.proof().as_slice(),
                    &next_verifier.as_slice(),
                    &nonce.as_slice(),
                    &caller.ip,
                    &caller.user_agent,
                    &caller.device_hash.as_ref().map(<[u8; 32]>::as_slice),
                    &caller.request_id,
                    &received_at,
                ],
            )
            .await?;
        self.clock.note(named(&row, "database_time")?);
        Rotation::read(&row)
    }

    /// Exchanges a token of a system that was taken over: the same, for the first token of its session.
    pub async fn exchange_adopted_token(
        &self,
        adopted: &AdoptedToken,
        next_verifier: [u8; 32],
        nonce: RotationNonce,
        is_shared: bool,
        caller: &Caller,
    ) -> Result<Rotation, Problem> {
        // Before anything is waited for.
        let received_at = self.clock.now();
        let sql = "select r.*, extract(epoch from r.retry_after)::float8 as retry_after_seconds, p.*, \
                clock_timestamp() as database_time \
            from auth.exchange_adopted_token(token_proof => $1, next_token_verifier => $2, rotation_nonce => $3, \
                ip => $4, user_agent => $5, device_hash => $6, correlation_id => $7, is_shared => $8, received_at => $9) r \
            left join lateral auth.session_profile(r.session_id) p on true";
        let row = self
            .one(
                sql,
                &[
                    &adopted.proof().as_slice(),
                    &next_verifier.as_slice(),
                    &nonce.as_slice(),
                    &caller.ip,
                    &caller.user_agent,
                    &caller.device_hash.as_ref().map(<[u8; 32]>::as_slice),
                    &caller.request_id,
                    &is_shared,
                    &received_at,
                ],
            )
            .await?;
        self.clock.note(named(&row, "database_time")?);
        Rotation::read(&row)
    }

    /// Makes a user, an organization where one is asked for, and a session, or nothing at all.
    pub async fn sign_up(
        &self,
        account: NewAccount<'_>,
        password: &NewVerifier,
        token: &TokenSecret,
        lifetimes: Lifetimes,
        caller: &Caller,
    ) -> Result<SignUp, Problem> {
        let sql = "select r.*, p.* \
            from auth.sign_up(email => $1, name => $2, user_type => $3, password_salt => $4, password_params => $5, \
                pepper_id => $6, password_verifier => $7, token_verifier => $8, organization_name => $9, \
                organization_slug => $10, organization_description => $11, organization_website => $12, ip => $13, \
                user_agent => $14, device_hash => $15, device_name => $16, correlation_id => $17, \
                idle_ttl => make_interval(secs => $18), max_age => make_interval(secs => $19), \
                retry_window => make_interval(secs => $20), is_shared => $21) r \
            left join lateral auth.session_profile(r.session_id) p on true";
        let row = self
            .one(
                sql,
                &[
                    &account.email,
                    &account.name,
                    &account.user_type,
                    &password.salt.as_slice(),
                    &password.params,
                    &password.pepper_id,
                    &password.verifier.as_slice(),
                    &token.verifier().as_slice(),
                    &account.organization.map(|(name, _)| name),
                    &account.organization.map(|(_, slug)| slug),
                    &account.description,
                    &account.website,
                    &caller.ip,
                    &caller.user_agent,
                    &caller.device_hash.as_ref().map(<[u8; 32]>::as_slice),
                    &caller.device_name,
                    &caller.request_id,
                    &lifetimes.idle,
                    &lifetimes.max_age,
                    &lifetimes.retry_window,
                    &lifetimes.is_shared,
                ],
            )
            .await?;
        match named(&row, "outcome")? {
            "signed_up" => Ok(SignUp::SignedUp(Grant::read(&row)?)),
            "email_taken" => Ok(SignUp::EmailTaken),
            "slug_taken" => Ok(SignUp::SlugTaken),
            "slug_reserved" => Ok(SignUp::SlugReserved),
            outcome => Err(unknown_outcome(outcome)),
        }
    }

    /// What to hash this user's password with. An unknown e-mail gets a steady fake made with the defaults.
    pub async fn begin_login(
        &self,
        email: &str,
        default_params: &str,
        default_pepper_id: i32,
    ) -> Result<LoginChallenge, Problem> {
        let sql = "select password_salt, password_params, pepper_id, verifier_version, \
                extract(epoch from retry_after)::float8 as retry_after_seconds \
            from auth.begin_login(email => $1, default_params => $2, default_pepper_id => $3)";
        let row = self.one(sql, &[&email, &default_params, &default_pepper_id]).await?;
        Ok(LoginChallenge {
            salt: named(&row, "password_salt")?,
            params: named(&row, "password_params")?,
            pepper_id: named(&row, "pepper_id")?,
            verifier_version: named(&row, "verifier_version")?,
            retry_after: named(&row, "retry_after_seconds")?,
        })
    }

    /// Shows the proof; opens a session, or counts the failure.
    #[allow(clippy::too_many_arguments)] // as many as the SQL function has facts to check
    pub async fn complete_login(
        &self,
        email: &str,
        verifier_version: i32,
        password_proof: [u8; 32],
        token: &TokenSecret,
        renewed: Option<&NewVerifier>,
        lifetimes: Lifetimes,
        caller: &Caller,
    ) -> Result<Login, Problem> {
        let sql = "select r.*, extract(epoch from r.retry_after)::float8 as retry_after_seconds, p.* \
            from auth.complete_login(email => $1, verifier_version => $2, password_proof => $3, token_verifier => $4, \
                renewed_salt => $5, renewed_params => $6, renewed_pepper_id => $7, renewed_verifier => $8, \
                idle_ttl => make_interval(secs => $9), ip => $10, user_agent => $11, device_hash => $12, \
                device_name => $13, correlation_id => $14, max_age => make_interval(secs => $15), \
                retry_window => make_interval(secs => $16), is_shared => $17) r \
            left join lateral auth.session_profile(r.session_id) p on true";
        let row = self
            .one(
                sql,
                &[
                    &email,
                    &verifier_version,
                    &password_proof.as_slice(),
                    &token.verifier().as_slice(),
                    &renewed.map(|new| new.salt.as_slice()),
                    &renewed.map(|new| new.params.as_str()),
                    &renewed.map(|new| new.pepper_id),
                    &renewed.map(|new| new.verifier.as_slice()),
                    &lifetimes.idle,
                    &caller.ip,
                    &caller.user_agent,
                    &caller.device_hash.as_ref().map(<[u8; 32]>::as_slice),
                    &caller.device_name,
                    &caller.request_id,
                    &lifetimes.max_age,
                    &lifetimes.retry_window,
                    &lifetimes.is_shared,
                ],
            )
            .await?;
        let outcome = named(&row, "outcome")?;
        metrics().logins.count(outcome);
        match outcome {
            "logged_in" => Ok(Login::LoggedIn(Grant::read(&row)?)),
            "refused" => Ok(Login::Refused),
            "locked" => Ok(Login::Locked(named::<Option<f64>>(&row, "retry_after_seconds")?.unwrap_or_default())),
            "stale" => Ok(Login::Stale),
            outcome => Err(unknown_outcome(outcome)),
        }
    }

    /// Ends the session of a refresh token (RFC 7009); how many were ended.
    pub async fn end_session(&self, shown: &Shown<'_>, caller: &Caller) -> Result<u32, Problem> {
        let (ticket, proof) = (shown.ticket(), shown.proof());
        let params: Params<'_> =
            &[&shown.session_id(), &shown.generation(), &ticket, &proof.as_slice(), &caller.request_id];
        Ok(u32::from(column::<bool>(&self.one(END_SESSION, params).await?, 0)?))
    }

    /// The same, and all other sessions of that user. A genuine token of a session that is over still proves who asks.
    pub async fn end_all_sessions(&self, shown: &Shown<'_>, caller: &Caller) -> Result<u32, Problem> {
        let others = "select coalesce((select auth.revoke_user_sessions(user_id => auth.current_user_id(), \
                reason => 'logged_out', correlation_id => $1) where auth.current_user_id() is not null), 0)";
        let (ticket, proof) = (shown.ticket(), shown.proof());
        let params: Params<'_> =
            &[&shown.session_id(), &shown.generation(), &ticket, &proof.as_slice(), &caller.request_id];
        let acting = self.begin().await?;
        let ended = acting.one(END_SESSION, params).await?;
        let revoked = acting.one(others, &[&caller.request_id]).await?;
        acting.commit().await?;
        Ok(u32::from(column::<bool>(&ended, 0)?) + column::<i32>(&revoked, 0)?.unsigned_abs())
    }
}

/// Of a token of ours; of one that does not tell its session, by its proof alone.
const END_SESSION: &str = "select case when $1::uuid is null \
    then auth.end_adopted_session(token_proof => $4, correlation_id => $5) \
    else auth.end_session(session_id => $1, generation => $2, ticket => $3, token_proof => $4, correlation_id => $5) end";

pub(super) fn unknown_outcome(outcome: &str) -> Problem {
    tracing::error!(outcome, "the database answered with an outcome that this version does not know");
    Code::InternalError.into()
}
