//! `auth-api rollback`: the old tables as they were.

use clap::Args;
use serde_json::Value;

use super::progress::{Progress, print};
use crate::db::{
    Db,
    adoption::{Adoption, State},
};

/// How to go back.
#[derive(Args)]
pub struct RollbackArgs {
    /// Goes back although people have used the new system since. Without it, a rollback that would lose
    /// something says what, and changes nothing.
    #[arg(long)]
    force: bool,
    /// Says what a rollback would lose, and whether it is possible without --force: the exit status. Changes
    /// nothing.
    #[arg(long, conflicts_with = "force")]
    verify_only: bool,
    /// Does not copy the rows that it takes out of schema auth into a schema auth_undone_… first.
    #[arg(long)]
    no_backup: bool,
    /// Rows per transaction.
    #[arg(long, default_value_t = 25_000, value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    batch_size: i32,
}

/// Does it. An error is a sentence for the operator.
pub async fn rollback(args: RollbackArgs, db: Db) -> Result<(), String> {
    let door = db.adoption().await?;
    match door.state(&Value::Null).await? {
        None => return Err("there is no adoption in this database.".into()),
        Some(State { is_kept_dropped: true, .. }) => {
            return Err("the old table was dropped by --no-backup: there is nothing to give back.".into());
        }
        Some(State { is_given_back: true, .. }) if args.verify_only => {
            return Err("a rollback has begun: auth-api rollback finishes it.".into());
        }
        Some(State { is_given_back: true, .. }) => {}
        Some(_) => {
            let is_lossless = tell_losses(&door).await?;
            if !is_lossless && !args.force {
                return Err("a rollback would lose what is counted above. Nothing was changed; --force does it.".into());
            }
            if args.verify_only {
                print("A rollback loses nothing.");
                return Ok(());
            }
            give_back(&door, &args).await?;
        }
    }
    for mut step in door.steps().await? {
        let mut progress = Progress::new(&step);
        while step.name.starts_with("take out") && !step.is_finished {
            door.begin().await?;
            step = door.batch(&step.name, args.batch_size).await?;
            door.commit().await?;
            progress.show(&step);
        }
    }
    door.begin().await?;
    door.record("adoption_rolled_back").await?;
    door.forget().await?;
    door.commit().await?;
    print("Done. Unset ADOPTED_TOKEN_FORMAT.");
    Ok(())
}

/// Whether nothing is lost.
async fn tell_losses(door: &Adoption) -> Result<bool, String> {
    let mut is_lossless = true;
    for (what, many) in door.losses().await? {
        if many > 0 {
            is_lossless = false;
            print(&format!("{many:>12}  {what}"));
        }
    }
    Ok(is_lossless)
}

/// The one transaction after which the old application works again.
async fn give_back(door: &Adoption, args: &RollbackArgs) -> Result<(), String> {
    door.begin().await?;
    let copy = if args.no_backup { None } else { Some(door.back_up().await?) };
    door.give_back().await?;
    door.commit().await?;
    print("The old table is in its place again.");
    if let Some(schema) = copy {
        print(&format!("What is taken out of schema auth was copied into schema {schema}."));
    }
    Ok(())
}
