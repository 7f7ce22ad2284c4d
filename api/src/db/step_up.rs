//! Proving once more who one is, within a session.

use super::{AccessGrant, Db, column, named, sessions::unknown_outcome};
use crate::{credential::SessionCredential, device::Caller, error::Problem};

/// What the password of a session's user is hashed with.
pub struct StepUpChallenge {
    /// None: the account has no password.
    pub password: Option<StepUpPassword>,
    /// Which verifier this was.
    pub verifier_version: i32,
    /// Seconds, while step-ups are locked.
    pub retry_after: Option<f64>,
}

/// The parts of an existing password.
pub struct StepUpPassword {
    /// Salt.
    pub salt: Vec<u8>,
    /// Argon2 parameters.
    pub params: String,
    /// Which pepper.
    pub pepper_id: i32,
}

/// The answer to a step-up.
pub enum StepUp {
    /// Proved. A new access token; the session's refresh token stays as it is.
    SteppedUp(Box<AccessGrant>),
    /// Not proved, and counted.
    Refused,
    /// Too many failures; seconds to wait.
    Locked(f64),
    /// The password changed meanwhile: once more.
    Stale,
    /// The session is over.
    Ended,
}

impl Db {
    /// The refusal of a sensitive operation whose session was not authenticated recently, with the age that is wanted.
    pub async fn step_up_required(&self) -> Problem {
        let asked = async {
            let row = self.one("select extract(epoch from auth.step_up_max_age())::bigint", &[]).await?;
            column(&row, 0)
        };
        match asked.await {
            Ok(seconds) => Problem::step_up_required(seconds),
            Err(problem) => problem,
        }
    }

    /// What to hash the password of this session's user with.
    pub async fn begin_step_up(&self, who: &SessionCredential) -> Result<StepUpChallenge, Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select password_salt, password_params, pepper_id, verifier_version, \
                extract(epoch from retry_after)::float8 as retry_after_seconds \
            from auth.begin_step_up()";
        let row = acting.one(sql, &[]).await?;
        acting.commit().await?;
        let password = match named::<Option<Vec<u8>>>(&row, "password_salt")? {
            None => None,
            Some(salt) => {
                let (params, pepper_id) = (named(&row, "password_params")?, named(&row, "pepper_id")?);
                Some(StepUpPassword { salt, params, pepper_id })
            }
        };
        Ok(StepUpChallenge {
            password,
            verifier_version: named(&row, "verifier_version")?,
            retry_after: named(&row, "retry_after_seconds")?,
        })
    }

    /// Shows the proof; moves the session's `auth_time`, or counts the failure.
    pub async fn complete_step_up(
        &self,
        who: &SessionCredential,
        verifier_version: i32,
        password_proof: [u8; 32],
        caller: &Caller,
    ) -> Result<StepUp, Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select r.*, extract(epoch from r.retry_after)::float8 as retry_after_seconds, p.* \
            from auth.complete_step_up(verifier_version => $1, password_proof => $2, ip => $3, user_agent => $4, \
                correlation_id => $5) r \
            left join lateral auth.session_profile(r.session_id) p on true";
        let proof = password_proof.as_slice();
        let row =
            acting.one(sql, &[&verifier_version, &proof, &caller.ip, &caller.user_agent, &caller.request_id]).await?;
        acting.commit().await?;
        match named(&row, "outcome")? {
            "stepped_up" => Ok(StepUp::SteppedUp(Box::new(AccessGrant::read(&row)?))),
            "refused" => Ok(StepUp::Refused),
            "locked" => Ok(StepUp::Locked(named::<Option<f64>>(&row, "retry_after_seconds")?.unwrap_or_default())),
            "stale" => Ok(StepUp::Stale),
            "ended" => Ok(StepUp::Ended),
            outcome => Err(unknown_outcome(outcome)),
        }
    }
}
