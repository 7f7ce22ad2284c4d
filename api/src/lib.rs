//! auth-api: the REST service in front of the auth_sessions extension. HTTP, password hashing and token encoding; every
//! decision is made in the database.
//!
//! A library only so that `tests/fuzz` can reach the parsers; every module is private, so that the compiler goes on finding
//! what nobody uses.

mod access_token;
mod adopted_token;
mod adoption;
mod alerts;
mod alerts_command;
mod app;
mod client_address;
mod client_authentication;
mod clients_command;
mod common_passwords;
mod config;
mod cookies;
mod courier;
mod credential;
mod db;
mod device;
mod doctor;
mod error;
mod export;
mod field;
mod form;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod json;
mod keys;
mod keys_command;
mod limits;
mod mailer;
mod metrics;
mod oidc;
mod operations;
mod origin;
mod pages;
mod password;
mod personal_access_token;
mod refresh_token;
mod refusal_stream;
mod routes;
mod server;
mod slugs;
mod strict_schema;
mod telemetry;
mod tls;
mod upkeep;

use std::{
    io::{IsTerminal, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
};

use clap::{Parser, Subcommand};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    access_token::AccessTokens,
    app::App,
    config::{Config, LogConfig, LogFormat, MetricsListen},
    keys::{
        CurrentKeys,
        reload::Reload,
        source::{KeySource, Ring},
    },
    limits::Limits,
    metrics::MetricsServer,
    password::Passwords,
    slugs::Slugs,
    telemetry::{ErrorReports, Telemetry},
};

/// Login sessions with rotating refresh tokens, kept inside PostgreSQL: the REST service.
#[derive(Parser)]
#[command(version, after_help = config::help(), after_long_help = config::help())]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answers HTTP requests until SIGTERM or SIGINT, then finishes those under way.
    #[command(after_help = config::help(), after_long_help = config::help())]
    Serve,
    /// Prints openapi.json; needs no database and no settings.
    Openapi,
    /// Makes, lists and ends confidential clients: programs that may introspect and revoke tokens.
    #[command(subcommand, after_help = config::admin_help(), after_long_help = config::admin_help())]
    Clients(clients_command::ClientsCommand),
    /// Makes, lists, rotates and retires the keys of the service, in files and in Vault.
    #[command(subcommand, after_help = config::keys_help(), after_long_help = config::keys_help())]
    Keys(keys_command::KeysCommand),
    /// Tries what tells somebody on call of a replay and other alarms.
    #[command(subcommand, after_help = config::alerts_help(), after_long_help = config::alerts_help())]
    Alerts(alerts_command::AlertsCommand),
    /// Examines the installation, and says of each finding what to do. Exit code: 0, 1 with warnings, 2 with errors.
    #[command(after_help = config::help(), after_long_help = config::help())]
    Doctor {
        /// Prints the findings as a JSON array of {topic, severity, finding, advice}.
        #[arg(long)]
        json: bool,
    },
    /// Writes the audit log of a stretch of time as lines of JSON, the oldest first, for compliance and for other systems.
    ///
    /// The lines go to standard output or to a file, how far it came to standard error. Only reads. What the
    /// members mean: sql/dba/audit-events.md.
    #[command(after_help = config::admin_help(), after_long_help = config::admin_help())]
    Export(export::ExportArgs),
    /// Takes over the users and sessions of another system that are in this database: passwords go on working
    /// and nobody is logged out.
    ///
    /// The old sessions table is moved, as it is, into schema auth_kept, and a view takes its name: old
    /// queries go on reading, and nothing writes there any more. So stop the old application first. Whatever
    /// interrupts it, the same command goes on. auth-api rollback undoes it.
    #[command(after_help = config::adoption_help(), after_long_help = config::adoption_help())]
    Adopt(adoption::AdoptArgs),
    /// Undoes auth-api adopt: the old table is put back in its place, byte for byte as it was.
    ///
    /// What the adoption brought is then taken out of schema auth: the adopted users, with all that is theirs,
    /// and the adopted sessions. Who has signed up here since stays. Whatever interrupts it, the same command
    /// goes on.
    #[command(after_help = config::admin_help(), after_long_help = config::admin_help())]
    Rollback(adoption::RollbackArgs),
}

/// The command line.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Openapi => std::io::stdout().write_all(app::document().as_bytes()).map_err(|error| error.to_string()),
        Command::Serve => serve(),
        Command::Doctor { json } => match examine(json) {
            Ok(code) => return code,
            Err(sentence) => Err(sentence),
        },
        Command::Alerts(command) => try_alerts(command),
        Command::Clients(command) => operate(|db| clients_command::run(command, db)),
        Command::Keys(command) => manage_keys(command),
        Command::Adopt(args) => {
            operate(|db| adoption::adopt(args, db, &|| config::key_source(environment, &[Ring::Peppers])))
        }
        Command::Export(args) => operate(|db| export::run(args, db)),
        Command::Rollback(args) => operate(|db| adoption::rollback(args, db)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("auth-api: {sentence}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    init_log(config::log_config(environment).map_err(|error| error.to_string())?)?;
    let mut config = config::config(environment).map_err(|error| error.to_string())?;
    let telemetry = Telemetry::start(std::mem::take(&mut config.telemetry))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    let served = runtime.block_on(run(config));
    drop(runtime);
    telemetry.stop();
    served
}

/// Runs a command for operators.
fn operate<F: Future<Output = Result<(), String>>>(command: impl FnOnce(db::Db) -> F) -> Result<(), String> {
    init_log(config::log_config(environment).map_err(|error| error.to_string())?)?;
    let database = config::admin_database(environment).map_err(|error| error.to_string())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(command(db::Db::new(database)?))
}

fn manage_keys(command: keys_command::KeysCommand) -> Result<(), String> {
    init_log(config::log_config(environment).map_err(|error| error.to_string())?)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let config = |rings: &[Ring]| config::keys_config(environment, rings).map_err(|error| error.to_string());
    runtime.block_on(keys_command::run(command, config))
}

fn try_alerts(command: alerts_command::AlertsCommand) -> Result<(), String> {
    init_log(config::log_config(environment).map_err(|error| error.to_string())?)?;
    let receivers = config::alert_receivers(environment).map_err(|error| error.to_string())?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(alerts_command::run(command, receivers))
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn examine(json: bool) -> Result<ExitCode, String> {
    init_log(config::log_config(environment).map_err(|error| error.to_string())?)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    Ok(runtime.block_on(doctor::run(environment, json)))
}

fn init_log(LogConfig { format, filter }: LogConfig) -> Result<(), String> {
    let filter = EnvFilter::try_new(&filter).map_err(|error| format!("RUST_LOG={filter} cannot be used: {error}."))?;
    // Libraries are heard from info up, whatever RUST_LOG says: at debug, tokio-postgres prints the parameters. Those that
    // talk to Vault are not heard at all: each of their errors comes back, and is said once, with what to do.
    let harmless = filter_fn(|event| {
        let quiet = ["vaultrs", "rustify"].iter().any(|library| event.target().starts_with(library));
        event.target().starts_with("auth_api") || (*event.level() <= Level::INFO && !quiet)
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Pretty => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter.and(harmless))).with(ErrorReports).init();
    Ok(())
}

/// What every request may need, of the settings, and where its keys are. Connects to nothing yet, but for the keys.
async fn assemble(config: Config) -> Result<(App, KeySource), String> {
    let hashing = config.passwords;
    let keys = Arc::new(CurrentKeys::new(config.keys.load().await?));
    let app = App {
        db: db::Db::new(config.database)?,
        adopted_tokens: config.adopted_tokens,
        access_tokens: AccessTokens::new(keys.clone(), config.issuer, config.audience),
        access_token_ttl: config.access_token_ttl,
        cookies: config.cookies,
        origins: config.origins,
        refresh_token_ttl: config.refresh_token_ttl,
        federation: config.federation.map(oidc::Federation::new).transpose()?,
        unremembered_ttl: config.unremembered_ttl,
        passwords: Passwords::new(hashing.params, keys.clone(), hashing.concurrency, hashing.queue),
        metadata: config.metadata,
        slugs: Slugs::new(config.slug_cache),
        limits: Limits::new(config.limits),
        proxies: config.proxies,
        readiness: Default::default(),
        live: Default::default(),
        keys,
        serves_metrics: config.metrics_listen == MetricsListen::WithTheApi,
    };
    Ok((app, config.keys))
}

async fn run(mut config: Config) -> Result<(), String> {
    device::prepare();
    // From here on it asks for the keys anew, and no more ends the process.
    let hangup = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
    let (listen, clients) = (config.listen, config.clients.clone());
    let (mailer, alerts) = (config.mailer.take(), config.alerts.take());
    let (maintenance_interval, metrics_listen) = (config.maintenance_interval, config.metrics_listen);
    let key_interval = config.key_refresh;
    let (app, source) = assemble(config).await?;
    let app = Arc::new(app);
    upkeep::start(app.clone(), maintenance_interval).await?;
    tokio::spawn(Reload { source, interval: key_interval, app: app.clone() }.run(hangup));

    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let stopping = app.clone();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.live.stop();
    };
    let listener = bind("AUTH_LISTEN", listen).await?;
    let metrics_server = match metrics_listen {
        MetricsListen::Own(address) => {
            Some(MetricsServer::start(app.clone(), bind("METRICS_LISTEN", address).await?, &clients)?)
        }
        MetricsListen::WithTheApi | MetricsListen::Nowhere => None,
    };
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    // The only line on standard output: whoever starts the service waits for it.
    println!("listening on http://{address}");
    let mailer = mailer.map(mailer::start);
    let alerts = alerts.map(alerts::start);
    if mailer.is_none() {
        tracing::warn!("no mail is sent by this process: MAILER_DATABASE_URL is not set");
    }
    let served = server::serve(listener, app::endpoint(app), clients, stop).await.map_err(|error| error.to_string());
    // After the last request, which may have queued a mail.
    for courier in [mailer, alerts].into_iter().flatten() {
        courier.stop().await;
    }
    // Last of all: until here there was something to tell.
    if let Some(server) = metrics_server {
        server.stop().await;
    }
    served
}

async fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener, String> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| format!("cannot listen on {address}: {error}. Set {setting} to another address."))
}
