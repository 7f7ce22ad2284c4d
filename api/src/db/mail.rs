//! The e-mail of an account. What is mailed goes to its address alone: nothing here gets a token back.

use super::{Db, Params, column, sessions::unknown_outcome};
use crate::{
    credential::SessionCredential,
    device::Caller,
    error::{Code, Problem},
};

impl Db {
    /// Takes the token of a verification mail.
    pub async fn verify_email(&self, token: &str, caller: &Caller) -> Result<(), Problem> {
        let sql = "select auth.verify_email(token => $1, ip => $2, user_agent => $3, correlation_id => $4)";
        let row = self.one(sql, &[&token, &caller.ip, &caller.user_agent, &caller.request_id]).await?;
        match column(&row, 0)? {
            "verified" => Ok(()),
            "invalid_token" => Err(Code::InvalidOneTimeToken.into()),
            outcome => Err(unknown_outcome(outcome)),
        }
    }

    /// Mails the verification again, if there is anything to verify; never tells.
    pub async fn resend_verification(&self, email: &str, caller: &Caller) -> Result<(), Problem> {
        let sql = "select auth.resend_verification(email => $1, ip => $2, user_agent => $3, correlation_id => $4)";
        self.one(sql, &[&email, &caller.ip, &caller.user_agent, &caller.request_id]).await.map(|_| ())
    }

    /// The same, to the user of the session.
    pub async fn resend_own_verification(&self, who: &SessionCredential, caller: &Caller) -> Result<(), Problem> {
        let acting = self.act_as_session(who).await?;
        let sql = "select auth.resend_verification(ip => $1, user_agent => $2, correlation_id => $3)";
        acting.one(sql, &[&caller.ip, &caller.user_agent, &caller.request_id]).await?;
        acting.commit().await
    }

    /// Mails a link to the new address, and a notice to the old one.
    pub async fn request_email_change(
        &self,
        who: &SessionCredential,
        new_email: &str,
        caller: &Caller,
    ) -> Result<(), Problem> {
        let sql = "select auth.request_email_change(new_email => $1, ip => $2, user_agent => $3, correlation_id => $4)";
        let params: Params<'_> = &[&new_email, &caller.ip, &caller.user_agent, &caller.request_id];
        let acting = self.act_as_session(who).await?;
        let row = acting.one(sql, params).await?;
        acting.commit().await?;
        match column(&row, 0)? {
            "requested" => Ok(()),
            "step_up_required" => Err(self.step_up_required().await),
            outcome => Err(unknown_outcome(outcome)),
        }
    }

    /// Takes the token that was mailed to the new address.
    pub async fn confirm_email_change(
        &self,
        who: &SessionCredential,
        token: &str,
        caller: &Caller,
    ) -> Result<(), Problem> {
        let sql = "select auth.confirm_email_change(token => $1, ip => $2, user_agent => $3, correlation_id => $4)";
        let params: Params<'_> = &[&token, &caller.ip, &caller.user_agent, &caller.request_id];
        let acting = self.act_as_session(who).await?;
        let row = acting.one(sql, params).await?;
        acting.commit().await?;
        match column(&row, 0)? {
            "email_changed" => Ok(()),
            "email_taken" => Err(Code::EmailTaken.into()),
            "invalid_token" => Err(Code::InvalidOneTimeToken.into()),
            outcome => Err(unknown_outcome(outcome)),
        }
    }
}
