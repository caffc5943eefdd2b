//! `projector adopt`.

use super::terminal::{Listing, out};
use super::{AskedArgument, CliError, ConfigArgument, Output};
use crate::operations::adopt::{self, AdoptPlan, Choice, GroupState, Groups};

/// Give a copied database consumer groups of its own, or keep the groups of one that was moved.
///
/// A copy of a database (a restored backup, a template copy, a copied file, a clone of a server) has the store's
/// id, and so the names of the consumer groups. Hosts do not run a copy: they would take partitions from the
/// hosts of the original, and both would miss events. Without --new-groups or --keep-groups, the command shows
/// what the database is, who is in its groups, and what both choices do.
///
/// --new-groups is for a copy beside its original, as in a staging environment. --keep-groups is for a database
/// that was moved (to another server, by an upgrade, by a restored dump): the original is shut down for good, and
/// its groups are empty. A failover to a standby, another address and a renamed SQLite file need neither.
///
/// Stop the hosts of the database first. Hosts that wait because the database is another one than the recorded
/// one need not be stopped: they go on within seconds.
///
/// Example: projector adopt --new-groups --reason "staging, from the backup of Monday"
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The store, by its name in [stores]. Default: [store].
    #[arg(long, value_name = "NAME")]
    store: Option<String>,
    /// Give the store a new id, and so consumer groups of its own.
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
                out!("Done: the store's id is {}. Hosts that wait for this go on within seconds.", done.id);
            }
            (Output::Text, None) => {
                out!("Nothing was changed: --new-groups or --keep-groups with a --reason does it.");
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
        None => out!("  It is the recorded one. A physical copy of the server is the recorded one too."),
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
        (None, unknown) => format!("not known: {}", unknown.as_deref().unwrap_or_default()),
    }
}
