//! `auth-api alerts …`: whether those who are to be told would hear of it.

use chrono::{SecondsFormat, Utc};
use clap::Subcommand;
use uuid::Uuid;

use crate::alerts::Receivers;

/// What to do with alerts.
#[derive(Subcommand)]
pub enum AlertsCommand {
    /// Sends a webhook of the type auth.test to every receiver, once, and says on standard output what
    /// each answered. Needs no database; select auth.queue_test_alert() goes all the way instead.
    Test,
}

/// Does it. An error is a sentence for the operator.
pub async fn run(command: AlertsCommand, receivers: Receivers) -> Result<(), String> {
    let AlertsCommand::Test = command;
    let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let payload = serde_json::json!({
        "type": "auth.test", "version": 1, "timestamp": at,
        "data": {"times": 1, "firstAt": at, "lastAt": at, "events": [{"at": at}]},
    });
    let id = Uuid::new_v4();
    let mut failed = 0;
    for (receiver, sent) in receivers.send(&id, &payload.to_string(), &[]).await {
        failed += usize::from(sent.is_err());
        println!("{}: {}", receiver.name(), sent.map_or_else(|failure| failure.why, |()| "took it".into()));
    }
    match failed {
        0 => Ok(()),
        1 => Err(format!("a receiver did not take the webhook {id}.")),
        more => Err(format!("{more} receivers did not take the webhook {id}.")),
    }
}
