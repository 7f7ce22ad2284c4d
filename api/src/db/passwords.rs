//! Passwords that are forgotten, and passwords that are changed.

use super::{Db, Params, column, named, sessions::unknown_outcome};
use crate::{
    credential::SessionCredential,
    device::Caller,
    error::{Code, Problem},
    password::NewVerifier,
};

/// The answer to a change of password.
pub enum PasswordChange {
    /// Changed; so many other sessions were ended.
    Changed(u32),
    /// The current password is wrong: counted.
    Refused,
    /// Too many failures; seconds to wait.
    Locked(f64),
    /// The password changed meanwhile: once more.
    Stale,
}

impl Db {
    /// Mails a link for a new password, if there is such an account; never tells.
    pub async fn request_password_reset(&self, email: &str, caller: &Caller) -> Result<(), Problem> {
        let sql = "select auth.request_password_reset(email => $1, ip => $2, user_agent => $3, correlation_id => $4)";
        self.one(sql, &[&email, &caller.ip, &caller.user_agent, &caller.request_id]).await.map(|_| ())
    }

    /// Whether a token would be taken now. Asked before the new password is hashed: that is expensive, and anybody can
    /// make up a token.
    pub async fn check_password_reset(&self, token: &str) -> Result<(), Problem> {
        match column(&self.one("select auth.check_password_reset(token => $1)", &[&token]).await?, 0)? {
            true => Ok(()),
            false => Err(Code::InvalidOneTimeToken.into()),
        }
    }

    /// Sets the new password; how many sessions were ended.
    pub async fn reset_password(&self, token: &str, new: &NewVerifier, caller: &Caller) -> Result<u32, Problem> {
        let sql = "select outcome, revoked_sessions \
            from auth.reset_password(token => $1, password_salt => $2, password_params => $3, pepper_id => $4, \
                password_verifier => $5, ip => $6, user_agent => $7, correlation_id => $8)";
        let params: Params<'_> = &[
            &token,
            &new.salt.as_slice(),
            &new.params,
            &new.pepper_id,
            &new.verifier.as_slice(),
            &caller.ip,
            &caller.user_agent,
            &caller.request_id,
        ];
        let row = self.one(sql, params).await?;
        match named(&row, "outcome")? {
            "password_reset" => Ok(named::<i32>(&row, "revoked_sessions")?.unsigned_abs()),
            "invalid_token" => Err(Code::InvalidOneTimeToken.into()),
            outcome => Err(unknown_outcome(outcome)),
        }
    }

    /// Whether the session's user has proved lately who they are. The database asks again when it matters; this is so
    /// that nothing is hashed in vain.
    pub async fn require_recent_authentication(&self, who: &SessionCredential) -> Result<(), Problem> {
        let acting = self.act_as_session(who).await?;
        let row = acting.one("select auth.require_auth_age(max_age => auth.step_up_max_age())", &[]).await?;
        acting.commit().await?;
        if column(&row, 0)? { Ok(()) } else { Err(self.step_up_required().await) }
    }

    /// Shows the proof of the current password, where there is one, and sets the new one, or counts the failure.
    pub async fn change_password(
        &self,
        who: &SessionCredential,
        verifier_version: i32,
        current_proof: Option<[u8; 32]>,
        new: &NewVerifier,
        caller: &Caller,
    ) -> Result<PasswordChange, Problem> {
        let sql = "select outcome, revoked_sessions, extract(epoch from retry_after)::float8 as retry_after_seconds \
            from auth.change_password(verifier_version => $1, password_proof => $2, password_salt => $3, \
                password_params => $4, pepper_id => $5, password_verifier => $6, ip => $7, user_agent => $8, \
                correlation_id => $9)";
        let params: Params<'_> = &[
            &verifier_version,
            &current_proof.as_ref().map(<[u8; 32]>::as_slice),
            &new.salt.as_slice(),
            &new.params,
            &new.pepper_id,
            &new.verifier.as_slice(),
            &caller.ip,
            &caller.user_agent,
            &caller.request_id,
        ];
        let acting = self.act_as_session(who).await?;
        let row = acting.one(sql, params).await?;
        // Also when it was refused: the failure is counted.
        acting.commit().await?;
        match named(&row, "outcome")? {
            "password_changed" => Ok(PasswordChange::Changed(named::<i32>(&row, "revoked_sessions")?.unsigned_abs())),
            "refused" => Ok(PasswordChange::Refused),
            "locked" => {
                Ok(PasswordChange::Locked(named::<Option<f64>>(&row, "retry_after_seconds")?.unwrap_or_default()))
            }
            "stale" => Ok(PasswordChange::Stale),
            "step_up_required" => Err(self.step_up_required().await),
            outcome => Err(unknown_outcome(outcome)),
        }
    }
}
