//! `auth-api doctor`: examines an installation, the service's side here and the database's in
//! `auth.check_installation()`, and says of each finding what to do. Changes nothing.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use crate::{
    config::{self, Config, DatabaseConfig},
    db::{Db, Finding, is_in_the_clear},
    upkeep::{self, NotRight, Readiness},
};

/// How much two clocks may differ. Tokens live minutes, so seconds are no matter; more is not an accident.
const SKEW_NOTICED: Duration = Duration::from_secs(2);
/// From here on access tokens, retry windows and one-time tokens end at visibly wrong times.
const SKEW_HARMFUL: Duration = Duration::from_secs(60);

/// Says what was found on standard output; the exit code is 2 with errors, 1 with warnings, otherwise 0.
pub async fn run(lookup: impl Fn(&str) -> Option<String>, json: bool) -> ExitCode {
    let findings = examine(&lookup).await;
    if json {
        println!("{}", as_json(&findings));
    } else {
        findings.iter().for_each(|finding| println!("{}", as_text(finding)));
    }
    let any = |severity: &str| findings.iter().any(|finding| finding.severity == severity);
    ExitCode::from(if any("error") { 2 } else { u8::from(any("warning")) })
}

fn as_text(Finding { topic, severity, finding, advice }: &Finding) -> String {
    let line = format!("{severity:<8} {topic:<12} {finding}");
    if advice.is_empty() { line } else { format!("{line}\n{:22}→ {advice}", "") }
}

fn as_json(findings: &[Finding]) -> serde_json::Value {
    let one = |Finding { topic, severity, finding, advice }: &Finding| serde_json::json!({ "topic": topic, "severity": severity, "finding": finding, "advice": advice });
    findings.iter().map(one).collect()
}

async fn examine(lookup: &impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut report = Report::default();
    match config::config(lookup) {
        Ok(config) => examine_service(&mut report, config).await,
        Err(_) if lookup("DATABASE_URL").is_none() => report.note(
            "service",
            "its side is not examined: its settings are not in this environment",
            "Run this where it runs, with its settings: sh -c 'set -a; . /etc/default/auth-api; auth-api doctor'",
        ),
        Err(error) => report.error("settings", &error.to_string(), "auth-api --help explains every setting."),
    }
    match config::admin_database(lookup) {
        Ok(config) => examine_database(&mut report, config).await,
        Err(error) => report.error("database", &error.to_string(), "It names a login in auth_monitor or auth_admin."),
    }
    report.0
}

async fn examine_service(report: &mut Report, config: Config) {
    report.ok("settings");
    for (setting, database, group) in [
        ("DATABASE_URL", Some(&config.database.postgres), "auth_api"),
        ("MAILER_DATABASE_URL", config.mailer.as_ref().map(|mailer| &mailer.database), "auth_mailer"),
        ("FEDERATION_DATABASE_URL", config.federation.as_ref().map(|it| &it.database.postgres), "auth_federation"),
    ] {
        if let Some(postgres) = database {
            examine_login(report, setting, postgres, group).await;
        }
    }
    let Some(db) = connect(report, "service", config.database.postgres.clone()) else { return };
    if report.has_errors("logins") {
        return;
    }
    match upkeep::check_version(&db, &Readiness::default()).await {
        Ok(()) => report.ok("version"),
        Err(why) => return report.not_right("version", why),
    }
    match config.keys.load().await {
        Err(sentence) => report.error("keys", &sentence, "The service would not start with them."),
        Ok(rings) => {
            report.ok("keys");
            match upkeep::check_peppers(&db, &rings.peppers).await {
                Ok(()) => report.ok("peppers"),
                Err(why) => report.not_right("peppers", why),
            }
        }
    }
    examine_clock(report, &db).await;
    match db.limits().await {
        Err(_) => report.unavailable("limits"),
        Ok(limits) => {
            if config.access_token_ttl > limits.access_token_ttl {
                let finding = format!(
                    "access tokens say that they live {} s, the database believes them for {} s",
                    config.access_token_ttl.as_secs(),
                    limits.access_token_ttl.as_secs()
                );
                report.warning(
                    "limits",
                    &finding,
                    "Set ACCESS_TOKEN_TTL_SECONDS and auth_sessions.access_token_ttl to the same.",
                );
            }
            if config.refresh_token_ttl > limits.refresh_idle_ttl {
                let finding = format!(
                    "REFRESH_TOKEN_TTL_SECONDS asks for {} s, auth_sessions.refresh_idle_ttl grants {} s",
                    config.refresh_token_ttl.as_secs(),
                    limits.refresh_idle_ttl.as_secs()
                );
                report.note("limits", &finding, "Set both to the same, if more was wanted.");
            }
            if i32::try_from(config.database.pool_size).is_ok_and(|size| size > limits.connections) {
                let finding = format!(
                    "DB_POOL_SIZE is {}, the server has {} connections for everybody",
                    config.database.pool_size, limits.connections
                );
                report.warning("limits", &finding, "Lower DB_POOL_SIZE, or: alter system set max_connections = …;");
            }
            report.ok("limits");
        }
    }
}

/// That it connects, in secret, and as who it should.
async fn examine_login(report: &mut Report, setting: &str, postgres: &tokio_postgres::Config, group: &str) {
    if is_in_the_clear(postgres) {
        let finding = format!("{setting}: the connection to the database is not encrypted");
        report.warning("logins", &finding, "Add ?sslmode=require to it, unless the network between is yours alone.");
    }
    let Some(db) = connect(report, "logins", postgres.clone()) else { return };
    match db.is_member(group).await {
        Ok((true, _)) => report.ok("logins"),
        Ok((false, login)) => {
            let finding = format!("{setting}: {login} is not in {group}");
            report.error("logins", &finding, &format!("grant {group} to {login};"));
        }
        Err(_) => {
            let finding = format!("{setting}: the database does not answer; the log line above says why");
            report.error("logins", &finding, "Is the address right, the server up, the password known to it?");
        }
    }
}

async fn examine_clock(report: &mut Report, db: &Db) {
    // Once for nothing: the first statement of a connection takes longer.
    let _ = db.clock().await;
    let before = SystemTime::now();
    match db.clock().await {
        Err(_) => report.unavailable("clock"),
        Ok(there) => {
            let skew = skew(before, there, SystemTime::now());
            let finding = format!("this machine's clock and the database's differ by {} s", skew.as_secs());
            let advice = "Let both be set by NTP: timedatectl says whether they are.";
            if skew >= SKEW_HARMFUL {
                report.error("clock", &finding, advice);
            } else if skew >= SKEW_NOTICED {
                report.warning("clock", &finding, advice);
            } else {
                report.ok("clock");
            }
        }
    }
}

/// By how much a clock that was read between two readings of ours is surely wrong.
fn skew(before: SystemTime, there: SystemTime, after: SystemTime) -> Duration {
    let behind = before.duration_since(there).unwrap_or_default();
    let ahead = there.duration_since(after).unwrap_or_default();
    behind.max(ahead)
}

async fn examine_database(report: &mut Report, config: DatabaseConfig) {
    let Some(db) = connect(report, "database", config.postgres) else { return };
    let installed = match db.installed().await {
        Ok(installed) => installed,
        Err(_) => return report.unavailable("database"),
    };
    match (installed.version, installed.may_check) {
        (None, _) => {
            let finding = format!("the extension auth_sessions is not in the database {}", installed.database);
            report.error("database", &finding, "create extension auth_sessions;  -- as a superuser");
        }
        (Some(version), None) => {
            let finding = format!("the extension has version {version}, which cannot be examined");
            report.error("database", &finding, "alter extension auth_sessions update;  -- as a superuser");
        }
        (Some(_), Some(false)) => report.warning(
            "database",
            "its side is not examined: this login may not",
            "Set ADMIN_DATABASE_URL to a login in auth_monitor or auth_admin.",
        ),
        (Some(_), Some(true)) => match db.check_installation().await {
            Ok(findings) => report.0.extend(findings),
            Err(_) => report.unavailable("database"),
        },
    }
}

fn connect(report: &mut Report, topic: &str, postgres: tokio_postgres::Config) -> Option<Db> {
    // Once each: nothing is worth preparing, and a pooler in between does not matter.
    Db::new(DatabaseConfig { postgres, pool_size: 1, prepared: false })
        .map_err(|error| report.error(topic, &error, ""))
        .ok()
}

/// What was found so far.
#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, topic: &str, severity: &str, finding: &str, advice: &str) {
        self.0.push(Finding {
            topic: topic.into(),
            severity: severity.into(),
            finding: finding.into(),
            advice: advice.into(),
        });
    }

    fn error(&mut self, topic: &str, finding: &str, advice: &str) {
        self.add(topic, "error", finding, advice);
    }

    fn warning(&mut self, topic: &str, finding: &str, advice: &str) {
        self.add(topic, "warning", finding, advice);
    }

    fn note(&mut self, topic: &str, finding: &str, advice: &str) {
        self.add(topic, "note", finding, advice);
    }

    /// Nothing was found in this topic; unless something was.
    fn ok(&mut self, topic: &str) {
        if !self.0.iter().any(|finding| finding.topic == topic) {
            self.add(topic, "ok", "as it should be", "");
        }
    }

    fn has_errors(&self, topic: &str) -> bool {
        self.0.iter().any(|finding| finding.topic == topic && finding.severity == "error")
    }

    fn unavailable(&mut self, topic: &str) {
        self.error(topic, "the database does not answer as it should", "The log line above says why.");
    }

    fn not_right(&mut self, topic: &str, why: NotRight) {
        match why {
            NotRight::Unavailable(_) => self.unavailable(topic),
            // Their sentences say what to do.
            NotRight::Wrong(sentence) | NotRight::Hopeless(sentence) => self.error(topic, &sentence, ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_wrong_by_what_no_slow_answer_explains() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (before, there, after, expected) in
            [(100, 100, 100, 0), (100, 103, 105, 0), (100, 99, 105, 1), (100, 110, 105, 5), (100, 10, 101, 90)]
        {
            assert_eq!(
                skew(at(before), at(there), at(after)),
                Duration::from_secs(expected),
                "{before} {there} {after}"
            );
        }
    }
}
