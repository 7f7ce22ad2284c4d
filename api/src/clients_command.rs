//! `auth-api clients …`: confidential clients, for an operator. Not the service: its role may not do this.
//!
//! The secret is made here; the database sees its verifier only. Standard output has the secret, or the list, and
//! nothing else, so that it can go straight into a file or a secret store.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Subcommand;

use crate::{
    client_authentication::new_secret,
    db::{Db, ListedClient},
    error::{Code, Problem},
};

/// What to do with clients.
#[derive(Subcommand)]
pub enum ClientsCommand {
    /// Makes a client. Prints its secret, once, on standard output; its client_id on standard error.
    Create {
        /// What people call it, for example "Billing API"; 1 to 200 characters.
        name: String,
    },
    /// Lists all clients on standard output: client_id, state, made at, by which role, last used at,
    /// name, separated by tabs.
    List,
    /// Gives a client a new secret, and prints it like create does. The old one is refused from then on.
    Rotate {
        /// As create said, and list says.
        client_id: String,
    },
    /// Ends a client for good. Its secret is refused from then on; sessions are not touched.
    Disable {
        /// As create said, and list says.
        client_id: String,
    },
}

/// Does it. An error is a sentence for the operator.
pub async fn run(command: ClientsCommand, db: Db) -> Result<(), String> {
    match db.is_operator().await {
        Ok(true) => {}
        Ok(false) => {
            return Err("this login is not in role auth_admin. Set ADMIN_DATABASE_URL to one that is, or, as a \
                        superuser: grant auth_admin to the_login;"
                .into());
        }
        Err(problem) => return Err(failed(&problem)),
    }
    match command {
        ClientsCommand::Create { name } => {
            if !(1..=200).contains(&name.chars().count()) || name.chars().any(char::is_control) {
                return Err("the name must have 1 to 200 characters, none of them control.".into());
            }
            let (secret, verifier) = new_secret();
            let id = db.register_client(&name, verifier).await.map_err(|problem| failed(&problem))?;
            eprintln!("client_id: {id}\nThe client_secret is on standard output; it is not shown again.");
            println!("{}", *secret);
        }
        ClientsCommand::List => {
            for client in db.list_clients().await.map_err(|problem| failed(&problem))? {
                println!("{}", line(&client));
            }
        }
        ClientsCommand::Rotate { client_id } => {
            let (secret, verifier) = new_secret();
            if !db.rotate_client_secret(&client_id, verifier).await.map_err(|problem| failed(&problem))? {
                return Err(format!("there is no client {client_id}, or it is disabled. Nothing was changed."));
            }
            eprintln!("client_id: {client_id}\nThe new client_secret is on standard output; it is not shown again.");
            println!("{}", *secret);
        }
        ClientsCommand::Disable { client_id } => {
            if !db.disable_client(&client_id).await.map_err(|problem| failed(&problem))? {
                return Err(format!("there is no client {client_id}, or it is disabled already. Nothing was changed."));
            }
            eprintln!("{client_id} is disabled.");
        }
    }
    Ok(())
}

fn line(client: &ListedClient) -> String {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
    let state = if client.disabled_at.is_some() { "disabled" } else { "active" };
    let used = client.last_used_at.map_or("never".to_owned(), time);
    [&client.client_id, state, &time(client.created_at), &client.created_by, &used, &client.name].join("\t")
}

fn failed(problem: &Problem) -> String {
    match problem.code() {
        Code::DatabaseUnavailable => {
            "the database cannot be reached, or has not this version of the extension auth_sessions: the line above \
             says more."
        }
        _ => "the database refused it: the line above says why.",
    }
    .into()
}
