//! `projector adopt`.

use super::terminal::{Listing, out};
use super::{AskedArgument, CliError, ConfigArgument, Output};
use crate::operations::adopt::{self, AdoptPlan, Choice, GroupState, Groups};

/// Give a copied database consumer groups of its own, or keep the groups of one that was moved.
///
/// A copy of a database (a restored backup, a template copy, a copied file, a clone of a server) has the
/// same store id as the original, and so the same names of consumer groups. Hosts do not run on a copy:
/// they would take partitions from the hosts of the original, and both databases would miss events. Without
/// --new-groups or --keep-groups, the command changes nothing: it shows which database it found, the
/// members of the consumer groups, and what each choice does.
///
/// Use --new-groups for a copy beside its original, for example in a staging environment. Use --keep-groups
/// for a database that was moved (to another server, by an upgrade, by a restored dump), if the original is
/// shut down for good and its groups are empty. After a failover to a standby, a change of address or a
/// renamed SQLite file, neither is needed.
///
/// First stop the hosts of this database. Exception: hosts that already wait because they found a copy may
/// keep running; they continue within seconds.
///
/// Example: projector adopt --new-groups --reason "staging, from the backup of Monday"
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The store's name in [stores]. Default: [store].
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
    /// Give the store a new id, and thereby consumer groups of its own.
    #[arg(long, requires = "reason", conflicts_with = "keep_groups")]
    new_groups: bool,
    /// Keep the store's id and its consumer groups. Refused while the groups have members.
    #[arg(long, requires = "reason")]
    keep_groups: bool,
    /// Reason, recorded in the database.
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    asked: AskedArgument,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let config = arguments.config.load()?;
    let Arguments { store, new_groups, keep_groups, reason, asked, output, .. } = arguments;
    let choice = match (new_groups, keep_groups) {
        (true, _) => Some(Groups::New),
        (false, true) => Some(Groups::Keep),
        (false, false) => None,
    };
    let asked = asked.with_reason(reason);
    super::runtime()?.block_on(async {
        let planned = adopt::plan(&config, store.as_deref()).await?;
        if output == Output::Text {
            print(&planned.plan);
        }
        let plan = match choice {
            Some(groups) => planned.carry_out(groups, &asked).await?,
            None => planned.leave().await,
        };
        match (output, &plan.done) {
            (Output::Json, _) => super::print_json(&plan)?,
            (Output::Text, Some(done)) => {
                out!("Done: the store's id is {}. Hosts that wait for this command continue within seconds.", done.id);
            }
            (Output::Text, None) => {
                out!("Nothing was changed. To adopt the database, add --new-groups or --keep-groups, and a --reason.");
            }
        }
        Ok(())
    })
}

fn print(plan: &AdoptPlan) {
    out!("{} · store {}", plan.store, plan.id);
    out!("  the database: {}", plan.found.to_text());
    match &plan.recorded {
        Some(recorded) => out!("  recorded:     {}", recorded.to_text()),
        None => out!("  recorded:     nothing yet"),
    }
    match &plan.copied {
        Some(reason) => out!("  {reason}"),
        None => out!("  This is the recorded database. (A physical copy of the server looks the same.)"),
    }
    let mut table = Listing::new(["projection", "generation", "consumer group", "members now"]);
    for group in &plan.groups {
        table.row([
            group.projection.clone(),
            format!("{} ({})", group.generation, group.role.as_str()),
            group.group.clone(),
            members(group),
        ]);
    }
    table.print();
    for (flag, choice) in [("--new-groups", &plan.new_groups), ("--keep-groups", &plan.keep_groups)] {
        let Choice { does, problems } = choice;
        out!("{flag}:");
        does.iter().for_each(|does| out!("  - {does}"));
        problems.iter().for_each(|problem| out!("  refused now: {problem}"));
    }
}

fn members(group: &GroupState) -> String {
    match (&group.members, &group.unknown) {
        (Some(members), _) if members.is_empty() => "none".to_owned(),
        (Some(members), _) => {
            let member = |member: &adopt::Member| {
                format!("{} at {} ({} partitions)", member.client, member.host, member.partitions)
            };
            members.iter().map(member).collect::<Vec<_>>().join("\n")
        }
        (None, unknown) => format!("unknown: {}", unknown.as_deref().unwrap_or_default()),
    }
}
