//! `auth-api adopt` and `auth-api rollback`: taking over the users and sessions of another system, for an operator.
//!
//! The work is done in the database, by `sql/adopt/`; here are its order, its transactions, and the two things that only
//! this program can do: turn a password hash into a verifier, and name a device. Each batch is a transaction that also
//! notes how far it came, so that whatever interrupts it, the same command goes on. A trial is the same work in one
//! transaction that is rolled back.

pub mod mapping;
mod progress;
mod rollback;

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;

pub use self::rollback::{RollbackArgs, rollback};
use self::{
    mapping::Mapping,
    progress::{Progress, print},
};
use crate::{
    config::ConfigError,
    db::{
        Db,
        adoption::{Adoption, Check, ConvertedUser, OldUser, State, Step},
    },
    device,
    keys::{Peppers, source::KeySource},
    password::ForeignHash,
};

/// What to take over, and how.
#[derive(Args)]
pub struct AdoptArgs {
    /// The mapping file: which columns of the old tables are what. Start from one of sql/adopt/examples/.
    mapping: PathBuf,
    /// Does everything, in one transaction, and rolls it back: every constraint is met, nothing changes. The
    /// old table is locked only for the last moment.
    #[arg(long, conflicts_with_all = ["verify_only", "no_backup"])]
    dry_run: bool,
    /// Before an adoption: reads and judges all rows, and says what would become of them. After one: compares
    /// what is there with what should be. Changes nothing; the exit status says whether all is right.
    #[arg(long, conflicts_with = "no_backup")]
    verify_only: bool,
    /// Drops the old sessions table when all is done and verified: there is no rollback then, and the view
    /// under the old name shows sessions only. Given again after an adoption, drops what that one kept.
    #[arg(long)]
    no_backup: bool,
    /// Rows per transaction.
    #[arg(long, default_value_t = 25_000, value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    batch_size: i32,
    /// Writes what was wrong with which row to this file, as CSV: source, old_id, outcome, problem, detail.
    /// (Also in the table auth_adoption.problems, but for trials.)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Says where the peppers are when they are needed.
type PepperSource<'a> = &'a dyn Fn() -> Result<KeySource, ConfigError>;

/// Does it. An error is a sentence for the operator.
pub async fn adopt(args: AdoptArgs, db: Db, peppers: PepperSource<'_>) -> Result<(), String> {
    let mapping = Mapping::read(&args.mapping)?;
    let peppers = if mapping.has_passwords() {
        Some(peppers().map_err(|error| error.to_string())?.load_peppers().await?)
    } else {
        None
    };
    let mapping = mapping.to_json();
    let door = db.adoption().await?;
    let state = door.state(&mapping).await?;
    let run = Run { door, peppers, batch_size: args.batch_size };
    match state {
        None if args.dry_run => run.trial(&mapping, &args, false).await,
        None if args.verify_only => run.trial(&mapping, &args, true).await,
        None => {
            run.door.begin().await?;
            run.door.start(&mapping).await?;
            run.door.commit().await?;
            run.to_the_end(&args).await
        }
        Some(State { is_given_back: true, .. }) => {
            Err("a rollback of an adoption has begun in this database: auth-api rollback finishes it.".into())
        }
        Some(State { is_of_this_mapping: false, .. }) => Err(
            "this database has an adoption with another mapping file (select mapping from auth_adoption.adoption). \
                 Finish that one, or take it back with auth-api rollback."
                .into(),
        ),
        Some(_) if args.dry_run => {
            Err("this adoption has begun: there is nothing to try any more. --verify-only says how it is.".into())
        }
        Some(State { completed_at: None, .. }) if args.verify_only => {
            run.tell(&args).await?;
            Err("this adoption is not complete: the same command without --verify-only goes on with it.".into())
        }
        Some(_) if args.verify_only => {
            run.tell(&args).await?;
            conclude(&run.door.verify(false).await?)
        }
        Some(State { completed_at: None, .. }) => run.to_the_end(&args).await,
        Some(State { completed_at: Some(at), is_kept_dropped, .. }) => {
            if args.no_backup && !is_kept_dropped {
                run.drop_old_table().await
            } else {
                print(&format!("This adoption was completed at {at}: there is nothing to do."));
                Ok(())
            }
        }
    }
}

struct Run {
    door: Adoption,
    peppers: Option<Peppers>,
    batch_size: i32,
}

impl Run {
    /// From wherever it is. Verified strictly before it counts as complete.
    async fn to_the_end(&self, args: &AdoptArgs) -> Result<(), String> {
        for step in self.door.steps().await? {
            if step.name != VERIFY && !step.is_finished {
                self.step(step, Committing::EachBatch).await?;
            }
        }
        self.tell(args).await?;
        conclude(&self.door.verify(true).await?)?;
        self.door.begin().await?;
        self.door.complete().await?;
        self.door.record("adoption_completed").await?;
        self.door.commit().await?;
        self.door.analyze().await?;
        if args.no_backup {
            self.drop_old_table().await?;
        }
        print("Done. The service takes the old tokens when it has ADOPTED_TOKEN_FORMAT.");
        Ok(())
    }

    /// All of it, or as much as judges every row; then it has never been.
    async fn trial(&self, mapping: &serde_json::Value, args: &AdoptArgs, is_only_judged: bool) -> Result<(), String> {
        self.door.begin().await?;
        self.door.start(mapping).await?;
        let mut steps = self.door.steps().await?;
        if is_only_judged {
            steps.retain(|step| JUDGING.contains(&step.name.as_str()));
        } else {
            // Its lock is the only one that others would notice: it comes last.
            steps.sort_by_key(|step| step.name == TAKE_OVER);
        }
        for step in steps {
            if step.name != VERIFY {
                self.step(step, Committing::Never).await?;
            }
        }
        self.tell(args).await?;
        let verified = if is_only_judged {
            Ok(())
        } else {
            let verified = conclude(&self.door.verify(true).await?);
            self.door.complete().await?;
            verified
        };
        self.door.roll_back().await?;
        print("Nothing was changed.");
        verified
    }

    async fn step(&self, step: Step, committing: Committing) -> Result<(), String> {
        let mut progress = Progress::new(&step);
        loop {
            if committing == Committing::EachBatch {
                self.door.begin().await?;
            }
            let step = match step.name.as_str() {
                "users" => self.users(progress.is_at_the_start()).await?,
                "devices" => self.devices(progress.is_at_the_start()).await?,
                name => self.door.batch(name, self.batch_size).await?,
            };
            if committing == Committing::EachBatch {
                self.door.commit().await?;
            }
            progress.show(&step);
            if step.is_finished {
                return Ok(());
            }
        }
    }

    async fn users(&self, is_first: bool) -> Result<Step, String> {
        if is_first {
            self.door.count_users().await?;
        }
        let users = self.door.read_users(self.batch_size).await?;
        let converted: Vec<_> = users.into_iter().map(|user| self.convert(user)).collect();
        self.door.write_users(&converted, is_short(converted.len(), self.batch_size)).await
    }

    fn convert(&self, OldUser { old_id, password_hash }: OldUser) -> ConvertedUser {
        let hash = password_hash.filter(|hash| !hash.trim().is_empty());
        let parsed = hash
            .as_deref()
            .zip(self.peppers.as_ref())
            .map(|(hash, peppers)| ForeignHash::parse(hash).map(|parsed| parsed.verifier(peppers)));
        let (verifier, problem) = match parsed {
            None => (None, None),
            Some(Ok(verifier)) => (Some(verifier), None),
            Some(Err(why)) => (None, Some(format!("the hash {why}"))),
        };
        ConvertedUser { old_id, verifier, problem }
    }

    async fn devices(&self, is_first: bool) -> Result<Step, String> {
        if is_first {
            device::prepare();
            self.door.list_devices().await?;
        }
        let user_agents = self.door.read_devices(self.batch_size).await?;
        let (hashes, names): (Vec<_>, Vec<_>) =
            user_agents.iter().map(|text| (device::hash(text).to_vec(), device::name(text))).unzip();
        self.door.name_devices(&user_agents, &hashes, &names, is_short(user_agents.len(), self.batch_size)).await
    }

    async fn drop_old_table(&self) -> Result<(), String> {
        self.door.begin().await?;
        self.door.drop_kept().await?;
        self.door.commit().await?;
        print("The old table is dropped: there is no rollback any more.");
        Ok(())
    }

    /// What became of the rows, and what was wrong with some.
    async fn tell(&self, args: &AdoptArgs) -> Result<(), String> {
        for (what, many) in self.door.outcomes().await? {
            print(&format!("{many:>12}  {what}"));
        }
        for problem in self.door.problems().await? {
            let note = problem.note.map(|note| format!(": {note}")).unwrap_or_default();
            let count = if problem.outcome == "note" { String::new() } else { problem.count.to_string() };
            print(&format!("{count:>12}  {}: {} {}{note}", problem.outcome, problem.source, problem.problem));
        }
        if let Some(file) = &args.report {
            write_report(file, &self.door.problems_as_csv().await?)?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Committing {
    EachBatch,
    Never,
}

const TAKE_OVER: &str = "take over";
const VERIFY: &str = "verify";
const JUDGING: [&str; 3] = ["users", "tokens", "families"];

/// A batch that is not full is the last one.
fn is_short(rows: usize, batch_size: i32) -> bool {
    rows < usize::try_from(batch_size).unwrap_or_default()
}

fn conclude(checks: &[Check]) -> Result<(), String> {
    for Check { what, expected, found, is_right } in checks {
        let verdict = if *is_right { "right" } else { "WRONG" };
        print(&format!("{found:>12}  of {expected}: {what}: {verdict}"));
    }
    if checks.iter().all(|check| check.is_right) {
        return Ok(());
    }
    Err("the verification found what is wrong above. The old table is whole; auth-api rollback gives it back.".into())
}

fn write_report(file: &Path, csv: &[u8]) -> Result<(), String> {
    let write = |mut file: std::fs::File| file.write_all(csv);
    std::fs::File::create(file).and_then(write).map_err(|error| format!("cannot write {}: {error}.", file.display()))
}
