//! `projector plan`, `deploy`, `rollback` and `history`.

use std::path::PathBuf;
use std::time::Duration;

use humantime_serde::re::humantime;

use super::terminal::{Listing, note, out};
use super::{AskedArgument, CliError, ConfigArgument, Output, executable};
use crate::deploy::reach::Gaps;
use crate::instant::to_seconds as when;
use crate::operations::deployments::{self, Outcome, PartitionStart, Patience, Plan, Replay};
use crate::operations::trial::Trial;
use crate::store::deployments::Role;

/// Show what deploying a file would do: nothing, additions in place, or all rows anew.
///
/// Which locks it takes, which rows would stay as earlier versions made them, how much is to be replayed,
/// whether the log still reaches back to its beginning, and where a new generation would begin to read
/// (`[projections.NAME] start`). Nothing is changed.
#[derive(Debug, clap::Args)]
pub(super) struct PlanArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The component file.
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// Deploy a component: check it, show the plan, and have every host run it.
///
/// The command waits until every live host has compiled the component. Then the component becomes the active
/// version, and hosts change to it between two batches. A host that cannot run it leaves the projection's
/// consumer group.
///
/// A version that takes another one's place is on trial for its first batches (`[deploy] trial-batches`). If it
/// fails for an event for which the version before does not fail, the host puts the version before back. With
/// `--wait` the command waits for the end of the trial. The exit code is 1 if the version was reverted, is not a
/// pure function, or is still on trial after `--timeout`, as when no events arrive.
///
/// If the new version needs other tables, topics or rows, a new generation is built beside the live one. Readers
/// see it after `projector promote`. `projector plan` shows which of these will happen.
///
/// A file that is put into the plugin directory is deployed in the same way, but only if the projection never
/// had that file before.
///
/// Example: projector deploy order-search.wasm --reason "new column: country"
#[derive(Debug, clap::Args)]
pub(super) struct DeployArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The component file. If the configuration asks for a signature, it is read from FILE.wasm.minisig.
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Wait for the end of the version's trial as well.
    #[arg(long)]
    wait: bool,
    /// Begin a new generation even if it cannot read all events that the live one has read. The plan says how many.
    #[arg(long, requires = "reason")]
    allow_gap: bool,
    #[command(flatten)]
    waited: DeploymentArgs,
}

/// Go back to the version before the active one, or to the generation before the last promotion.
///
/// Of the two, the command undoes the one that happened last. Rows are not rewritten when a version is rolled
/// back: `projector rebuild` does that.
///
/// Example: projector rollback order-search --reason "totals are wrong"
#[derive(Debug, clap::Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    #[command(flatten)]
    waited: DeploymentArgs,
}

/// Build all rows again, with the active version, in a new generation beside the live one.
///
/// The new generation begins where `[projections.NAME] start` says, or at the beginning of its topics. The
/// start "latest" means for it: where the live generation began.
///
/// The command refuses to begin a generation that cannot read all events which the live one has read: the log does
/// not reach back to them any more, or the topic was created anew. It says how many; `projector backfill` feeds
/// them from a file, --allow-gap goes on without them.
///
/// Readers see the new generation after `projector promote`. `projector diff` compares the two before that.
#[derive(Debug, clap::Args)]
pub(super) struct Rebuild {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// Begin it even if it cannot read all events that the live generation has read.
    #[arg(long, requires = "reason")]
    allow_gap: bool,
    #[command(flatten)]
    waited: DeploymentArgs,
}

/// What is waited for, and kept.
#[derive(Debug, clap::Args)]
pub(super) struct DeploymentArgs {
    #[command(flatten)]
    pub(super) asked: AskedArgument,
    /// Reason, recorded in the history (optional).
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// How long to wait for the hosts. After that the command fails, and the deployment stays open.
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(super) timeout: Duration,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    pub(super) output: Output,
}

/// Show the deployments of a projection, newest first: versions, generations, who asked, why, and the result.
#[derive(Debug, clap::Args)]
pub(super) struct History {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// Show at most this many.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn progress(words: &str) {
    note!("{words}");
}

impl PlanArguments {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let plan = super::runtime()?.block_on(deployments::plan(&config, executable()?, &self.file))?;
        match self.output {
            Output::Json => super::print_json(&plan),
            Output::Text => {
                out!("{}", to_text(&plan));
                Ok(())
            }
        }
    }
}

impl DeployArguments {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let DeploymentArgs { asked, reason, timeout, output } = self.waited;
        let asked = asked.with_reason(reason);
        let gaps = Gaps::of(self.allow_gap);
        let told = |plan: &Plan| note!("{}", to_text(plan));
        let patience = Patience { time: timeout, for_trial: self.wait };
        let what = (&*self.file, gaps);
        let deployed = deployments::deploy(&config, executable()?, what, &asked, patience, &told, &progress);
        print_outcome(output, &super::runtime()?.block_on(deployed)?)
    }
}

impl Rollback {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let DeploymentArgs { asked, reason, timeout, output } = self.waited;
        let asked = asked.with_reason(reason);
        let done =
            deployments::rollback(&config, executable()?, &self.projection, &asked, timeout, &progress);
        print_outcome(output, &super::runtime()?.block_on(done)?)
    }
}

impl Rebuild {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let DeploymentArgs { asked, reason, timeout, output } = self.waited;
        let asked = asked.with_reason(reason);
        let what = (&*self.projection, Gaps::of(self.allow_gap));
        let done = deployments::rebuild(&config, executable()?, what, &asked, timeout, &progress);
        print_outcome(output, &super::runtime()?.block_on(done)?)
    }
}

fn print_outcome(output: Output, outcome: &Outcome) -> Result<(), CliError> {
    if output == Output::Json {
        return super::print_json(outcome);
    }
    let name = &outcome.projection;
    match &outcome.deployment {
        None => out!("{name}: this component is the active version already."),
        Some(deployed) => {
            let version = deployed.version.as_deref().unwrap_or("?");
            let generation = deployed.generation.unwrap_or_default();
            let verdict =
                deployed.verdict.as_ref().map(|verdict| format!(" ({verdict})")).unwrap_or_default();
            match (outcome.role, &outcome.trial) {
                (Some(role @ (Role::Building | Role::Warm)), _) => {
                    let role = role.as_str();
                    out!(
                        "{name}: version {version} runs in generation {generation}{verdict}, which is {role}: readers see another generation until `projector promote {name}`."
                    );
                }
                (_, Trial::Running) => out!(
                    "{name}: version {version} is active in generation {generation}{verdict}, and on trial: if it fails where the version before does not, that one is put back. `projector status {name}` tells; with --wait this command waits for the end."
                ),
                (_, Trial::Passed) => out!(
                    "{name}: version {version} is active in generation {generation}{verdict}, and has passed its trial."
                ),
                _ => out!("{name}: version {version} is active in generation {generation}{verdict}."),
            }
        }
    }
    for (host, refusal) in &outcome.refusals {
        out!("  {host} cannot run it, and has left its group: {refusal}");
    }
    Ok(())
}

impl History {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let history =
            super::runtime()?.block_on(deployments::history(&config, &self.projection, self.limit))?;
        if self.output == Output::Json {
            return super::print_json(&history);
        }
        let mut table = Listing::new([
            "when",
            "who",
            "what",
            "version",
            "generation",
            "state",
            "why, and what came of it",
        ]);
        for deployed in &history {
            let digest = deployed.digest.as_deref().unwrap_or_default();
            let version = deployed.version.as_deref().unwrap_or_default();
            let start = deployed.start.as_ref().map(|start| format!("began at: {start}"));
            let words: Vec<&str> = [&deployed.reason, &deployed.verdict, &start]
                .into_iter()
                .filter_map(|words| words.as_deref())
                .collect();
            table.row([
                when(deployed.asked_at),
                deployed.asked_by.clone(),
                deployed.action.clone(),
                format!("{version} {}", digest.get(..12).unwrap_or(digest)),
                deployed.generation.map(|number| number.to_string()).unwrap_or_default(),
                deployed.state.clone(),
                words.join("; "),
            ]);
        }
        table.print();
        Ok(())
    }
}

/// Where a new generation begins to read, unless that is at the beginning of every topic.
fn starts(replay: &Replay) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(problem) = &replay.start_problem {
        words.push(format!("  it would not run: {problem}"));
    }
    let behind = |found: &&PartitionStart| found.start != Some(found.log_begin);
    let behind: Vec<&PartitionStart> = replay.starts.iter().filter(behind).collect();
    if behind.is_empty() && replay.start == "earliest" {
        return words;
    }
    words.push(format!("  reading begins at the configured start: {}", replay.start));
    for PartitionStart { topic, partition, log_begin, log_end, start, problem } in behind {
        words.push(match (start, problem) {
            (Some(start), _) => format!(
                "    {topic}/{partition} begins at offset {start}; its log goes from {log_begin} to {log_end}, so {} offsets are not read",
                start - log_begin
            ),
            (None, problem) => format!(
                "    {topic}/{partition} would not be read: {}",
                problem.as_deref().unwrap_or_default()
            ),
        });
    }
    words
}

/// A plan for a person.
fn to_text(plan: &Plan) -> String {
    let mut words = vec![format!("{} {} ({})", plan.projection, plan.version, &plan.digest[..12])];
    if let Some(signer) = &plan.signer {
        words.push(format!("  vouched for by {signer}"));
    }
    let active = plan.active.as_ref();
    let now = active.map(|active| format!("version {} in generation {}", active.version, active.generation));
    let now = now.unwrap_or_else(|| "nothing".to_owned());
    words.push(match plan.change {
        "nothing" => format!("  nothing to do: it is active, as {now}"),
        "first" => "  its first generation, which readers see from the beginning".to_owned(),
        "in-place" => format!("  in place of {now}"),
        _ => format!("  a new generation beside {now}, with all rows built anew:"),
    });
    if plan.store_is_new {
        words.push("  no host has ever run on its store: `projector run` makes the tables there".to_owned());
    }
    words.extend(plan.reasons.iter().map(|reason| format!("    {reason}")));
    for step in &plan.steps {
        words.push(format!("    {}: locks {}", step.words, step.locks));
    }
    if plan.change == "in-place" && plan.steps.is_empty() {
        words.push("    no table is changed, and nothing is locked".to_owned());
    }
    if !plan.rows_stay.is_empty() {
        words.push(format!(
            "  rows that are there stay as earlier versions made them, in {}; raise `revision`, or `projector rebuild {}`, to have them built anew",
            plan.rows_stay.join(", "),
            plan.projection
        ));
    }
    if let Some(readers) = &plan.move_readers {
        words.extend(readers.to_lines().into_iter().map(|line| format!("  {line}")));
    }
    if let Some(replay) = &plan.replay {
        let Replay { events, estimated_seconds, beyond_reach, log_begins_later, unknown, .. } = replay;
        let time = humantime::format_duration(Duration::from_secs(estimated_seconds.ceil() as u64));
        words.push(format!("  {events} events are to be replayed: about {time}"));
        words.extend(starts(replay));
        if let Some(beyond) = beyond_reach.as_ref().filter(|beyond| !beyond.is_empty()) {
            words.push(format!("  {}: --allow-gap begins it without them", beyond.to_text()));
        }
        for (partition, first) in log_begins_later {
            words.push(format!(
                "  the log of {partition} begins at offset {first}: what was before is not in it (`projector backfill` feeds it from a file)"
            ));
        }
        words.extend(unknown.iter().map(|why| format!("  not known, and not counted: {why}")));
    }
    if !plan.order_dependent.is_empty() {
        words.push(format!(
            "  depends on the order between partitions: {} (`projector inspect` says why)",
            plan.order_dependent.join(", ")
        ));
    }
    words.extend(plan.warnings.iter().map(|warning| format!("  warning: {warning}")));
    if plan.had_before && plan.change != "nothing" {
        words.push("  the projection had it before: only `projector deploy` brings it back".to_owned());
    }
    words.join("\n")
}
