//! What became of everybody, and what the operator did.

use std::collections::BTreeMap;
use std::fmt;

use tokio_postgres::Client as Connection;
use uuid::Uuid;

use super::clients::Client;
use super::{Bystanders, Loss, Options};
use crate::server::HMAC_KEY;
use crate::sql::{revoked_reason, run as execute, session_row, value};
use crate::wire::RefreshToken;
use crate::{Api, OwnCluster};

/// The largest gap that the operator's window allows: the clients refresh without pause.
const MAX_GAP: i32 = 1_000_000;

/// What came out.
pub struct Report {
    /// What was to happen.
    pub options: Options,
    admin: Connection,
    operator: Connection,
    /// The generation of each session that is left, when the disaster was over and nobody was let in yet.
    left: BTreeMap<Uuid, i32>,
    /// Refreshes that were answered before.
    pub refreshes: usize,
    /// Clients whose login is in what is left.
    pub residents: usize,
    /// Those of them whose token is newer than what is left.
    pub ahead: usize,
    /// The largest number of refreshes that one session lost.
    pub largest_gap: i32,
    /// Clients that were refused though their login is there, by name.
    pub logged_out: Vec<String>,
    /// Those of them that a window let in afterwards, with the same token.
    pub let_in_later: usize,
    /// Sessions revoked though nobody robbed them.
    pub burnt: i64,
    /// What the audit log says of tokens newer than the database, and of sessions moved to where their client is.
    pub events: BTreeMap<String, i64>,
    /// Access tokens of what was lost that open nothing any more.
    pub access_tokens_lost: usize,
    /// Stolen tokens that were shown, and how many burnt their family.
    pub thefts: (usize, usize),
    /// Forged tokens that were shown, and how many changed anything or were taken.
    pub forgeries: (usize, usize),
    /// Sessions that were opened in what was lost, and how many of them are gone.
    pub latecomers: (usize, usize),
    /// Sessions that were ended in what was lost, how many of them live again, and how many still do when the operator
    /// has ended them again.
    pub leavers: (usize, usize, usize),
}

impl Report {
    pub(super) async fn new(options: Options, cluster: &OwnCluster) -> Self {
        let admin = cluster.connect("postgres", "auth").await;
        let rows = admin.query("select id, generation from auth.sessions", &[]).await.expect("the sessions");
        Self {
            options,
            operator: cluster.connect("auth_operator", "auth").await,
            left: rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
            admin,
            refreshes: 0,
            residents: 0,
            ahead: 0,
            largest_gap: 0,
            logged_out: Vec::new(),
            let_in_later: 0,
            burnt: 0,
            events: BTreeMap::new(),
            access_tokens_lost: 0,
            thefts: (0, 0),
            forgeries: (0, 0),
            latecomers: (0, 0),
            leavers: (0, 0, 0),
        }
    }

    /// Everything in the sessions happened five minutes earlier.
    pub(super) async fn let_five_minutes_pass(&self) {
        for session in self.left.keys() {
            crate::sql::let_time_pass(&self.admin, *session, "5 minutes").await;
        }
    }

    pub(super) async fn open_window(&self) {
        let mut stopped_at: Option<String> = None;
        if self.options.long_outage {
            // The server's clock was not moved with the rows: the operator says since when nobody was answered.
            stopped_at = value(&self.admin, "select max(rotated_at)::text from auth.sessions", &[]).await;
        }
        let open = "select auth.open_recovery_window('1 hour', $1, $2::text::timestamptz)";
        execute(&self.operator, open, &[&MAX_GAP, &stopped_at]).await;
    }

    /// Looks at all that is left, the clients being through.
    pub(super) async fn look_at(&mut self, clients: &mut [Client], others: &Bystanders, api: &Api) {
        let mut there: Vec<_> =
            clients.iter_mut().filter(|client| self.left.contains_key(&client.session_id)).collect();
        self.residents = there.len();
        let burnt = "select count(*) from auth.sessions where revoked_reason = 'token_replay'";
        for client in &mut there {
            let generation = RefreshToken::parse(&client.last_before().refresh_token).generation;
            let gap = generation - self.left[&client.session_id];
            self.ahead += usize::from(gap > 0);
            self.largest_gap = self.largest_gap.max(gap);
            if client.is_refused {
                self.logged_out.push(format!("{} ({:?}, {gap} lost)", client.session_id, client.manners));
            }
            let recognised = api.get("/api/auth/me", &client.last_before().access_token).await.status;
            self.access_tokens_lost += usize::from(recognised != 200);
            self.forge(client, api).await;
        }
        self.burnt = value(&self.admin, burnt, &[]).await;
        let events = "select action, count(distinct session_id) from auth.audit_log
                       where action in ('token_ahead_of_database', 'session_fast_forwarded') group by 1";
        let events = self.admin.query(events, &[]).await.expect("the audit log");
        self.events = events.iter().map(|row| (row.get(0), row.get(1))).collect();

        if !self.options.window {
            self.open_window().await;
            for client in there.iter_mut().filter(|client| client.is_refused) {
                self.let_in_later += usize::from(client.insist().await);
            }
            self.burnt += value::<i64>(&self.admin, burnt, &[]).await;
        }
        for (number, client) in there.iter().filter(|client| !client.is_refused).enumerate() {
            if number % 2 == 0 {
                self.steal(client, api).await;
            }
        }
        for latecomer in &others.latecomers {
            self.latecomers.0 += 1;
            let status = api.refresh(&latecomer.refresh_token).await.status;
            self.latecomers.1 += usize::from(status == 401);
        }
        for leaver in &others.leavers {
            let session = RefreshToken::parse(&leaver.refresh_token).session_id;
            let lives = revoked_reason(&self.admin, session).await.is_none();
            self.leavers.0 += 1;
            self.leavers.1 += usize::from(lives);
            if lives {
                execute(&self.operator, "select auth.revoke_session_family($1)", &[&session]).await;
            }
            self.leavers.2 += usize::from(api.refresh(&leaver.refresh_token).await.status != 401);
        }
    }

    /// A token of the next generation by somebody who has a stolen service key and every token of the client, but not the
    /// session's own key.
    async fn forge(&mut self, client: &Client, api: &Api) {
        let before = session_row(&self.admin, client.session_id).await;
        let genuine = RefreshToken::parse(client.token());
        for ahead in [1, 5] {
            let forged = RefreshToken { generation: genuine.generation + ahead, ..genuine.clone() };
            let status = api.refresh(&forged.signed_with(&HMAC_KEY)).await.status;
            let is_unchanged = session_row(&self.admin, client.session_id).await == before;
            self.forgeries.0 += 1;
            self.forgeries.1 += usize::from(status != 401 || !is_unchanged);
        }
    }

    /// An old token by whoever copied it: from before what was lost, or from it.
    async fn steal(&mut self, client: &Client, api: &Api) {
        // The last one that it had before is the one before the current one, as any retry is.
        let Some(stolen) = client.before().iter().nth_back(1) else { return };
        let status = api.refresh(&stolen.refresh_token).await.status;
        let reason = revoked_reason(&self.admin, client.session_id).await;
        let is_over = api.refresh(client.token()).await.status == 401;
        self.thefts.0 += 1;
        self.thefts.1 += usize::from(status == 401 && reason.as_deref() == Some("token_replay") && is_over);
    }

    /// Whether all is as promised.
    pub fn is_clean(&self) -> bool {
        let event = |action: &str| self.events.get(action).copied().unwrap_or_default();
        let refused = self.logged_out.len();
        let ahead = i64::try_from(self.ahead).expect("few clients");
        let as_promised = if self.options.window {
            refused == 0 && event("session_fast_forwarded") == ahead && event("token_ahead_of_database") == 0
        } else {
            refused == self.ahead && self.let_in_later == refused && event("token_ahead_of_database") == ahead
        };
        as_promised
            && self.ahead > 0
            && self.residents == self.options.clients
            && self.burnt == 0
            && self.access_tokens_lost == 0
            && self.thefts.0 == self.thefts.1
            && self.forgeries.1 == 0
            && self.leavers.2 == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options { loss, clients, window, long_outage } = self.options;
        let loss = match loss {
            Loss::Standby => "a standby that is behind was promoted",
            Loss::Crash => "rotation_synchronous_commit = off, kill -9",
            Loss::Backup => "a base backup was restored",
        };
        let window = if window { "a recovery window" } else { "no recovery window" };
        let outage = if long_outage { ", after an outage of five minutes" } else { "" };
        writeln!(f, "{loss}{outage}; {clients} clients; {window}")?;
        let mut line = |number: String, what: &str| writeln!(f, "  {number:>7}  {what}");
        line(self.refreshes.to_string(), "refreshes answered before")?;
        line(
            self.ahead.to_string(),
            &format!("clients newer than the database, by up to {} refreshes", self.largest_gap),
        )?;
        line(self.logged_out.len().to_string(), "clients logged out though their login is there")?;
        if !self.options.window {
            line(self.let_in_later.to_string(), "of them let in again, with the same token, by a window opened later")?;
        }
        line(self.burnt.to_string(), "families burnt by mistake")?;
        line(self.access_tokens_lost.to_string(), "access tokens of before that open nothing")?;
        line(format!("{}/{}", self.thefts.1, self.thefts.0), "stolen tokens found")?;
        line(format!("{}/{}", self.forgeries.1, self.forgeries.0), "forged tokens taken")?;
        line(format!("{}/{}", self.latecomers.1, self.latecomers.0), "logins of the lost stretch gone")?;
        line(
            format!("{}/{}", self.leavers.1, self.leavers.0),
            "logouts of the lost stretch undone, until they were repeated",
        )?;
        for name in &self.logged_out {
            writeln!(f, "           {name}")?;
        }
        for (action, count) in &self.events {
            writeln!(f, "  {count:>7}  audited as {action}")?;
        }
        Ok(())
    }
}
