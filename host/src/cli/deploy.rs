//! `projector plan`, `deploy`, `rollback` and `history`.

use std::path::PathBuf;
use std::time::Duration;

use humantime_serde::re::humantime;
use projector_config::Config;
use projector_core::generation::Role;
use projector_core::instant::to_seconds as when;

use super::terminal::{Listing, note, out};
use super::{AskedArgument, CliError, ConfigArgument, Output, executable};
use crate::deploy::reach::Gaps;
use crate::operations::deployments::{self, Outcome};
use crate::operations::plan::{self, Plan, PlannedComponent, TableChanges};
use crate::operations::replay::{PartitionStart, Replay};
use crate::operations::trial::Trial;
use crate::operations::{OperationError, Operations};

/// Show what deploying a file would change: nothing, columns or tables in place, or all rows in a new
/// generation.
///
/// The plan shows the locks that the deployment takes, the rows that would stay as earlier versions wrote
/// them, the number of events to replay, whether the log still holds the first events, and the offsets at
/// which a new generation would begin to read (`[projections.NAME] start`). The command changes nothing.
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

/// Deploy a component: check it, show the plan, and run it on every host.
///
/// The command waits until every live host has compiled the component. Then the component becomes the
/// active version, and each host switches to it between two batches. A host that cannot run the component
/// leaves the projection's consumer group.
///
/// A version that replaces another one is on trial for its first batches (`[deploy] trial-batches`). If it
/// fails for an event for which the previous version does not fail, the host reverts to the previous
/// version. With `--wait`, the command waits for the end of the trial. The exit code is 1 if the version
/// was reverted, is not a pure function, or is still on trial after `--timeout` (for example because no
/// events arrive).
///
/// If the new version needs other tables, topics or rows, a new generation is built beside the live one.
/// Readers see it after `projector promote`. `projector plan` shows in advance whether a new generation is
/// needed.
///
/// A file that you put into the plugin directory is deployed in the same way, but only if the projection
/// never had that file before.
///
/// Example: projector deploy order-search.wasm --reason "new column: country"
#[derive(Debug, clap::Args)]
pub(super) struct DeployArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// The component file. If the configuration requires a signature, it is read from FILE.wasm.minisig.
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Also wait for the end of the version's trial.
    #[arg(long)]
    wait: bool,
    /// Start a new generation even if it cannot read all events that the live generation has read. The plan
    /// shows how many events are missing.
    #[arg(long, requires = "reason")]
    allow_gap: bool,
    #[command(flatten)]
    waited: DeploymentArgs,
}

/// Go back to the previous version, or to the generation that was live before the last promotion.
///
/// The command undoes the last deployment or the last promotion, whichever is newer. A rollback to the
/// previous version does not rewrite rows; `projector rebuild` does.
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

/// Build all rows again with the active version, in a new generation beside the live one.
///
/// A generation is one build of a projection's tables. The new generation starts at the offsets that
/// `[projections.NAME] start` gives, or at the beginning of its topics. The start "latest" means the
/// offsets at which the live generation started.
///
/// The command refuses to start a generation that cannot read all events that the live one has read,
/// because the log does not hold them any more, or because the topic was recreated. The message says how
/// many events are missing. To add them from a file, use `projector backfill`. To continue without them,
/// use --allow-gap.
///
/// Readers see the new generation after `projector promote`. `projector diff` compares the two before that.
#[derive(Debug, clap::Args)]
pub(super) struct Rebuild {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// Start the generation even if it cannot read all events that the live generation has read.
    #[arg(long, requires = "reason")]
    allow_gap: bool,
    #[command(flatten)]
    waited: DeploymentArgs,
}

/// Arguments of commands that wait for the hosts and are recorded in the history.
#[derive(Debug, clap::Args)]
pub(super) struct DeploymentArgs {
    #[command(flatten)]
    pub(super) asked: AskedArgument,
    /// Reason, recorded in the history (optional).
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// How long to wait for the hosts. After this time the command fails, and the deployment stays open.
    #[arg(long, default_value = "2m", value_parser = humantime::parse_duration, value_name = "TIME")]
    pub(super) timeout: Duration,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    pub(super) output: Output,
}

/// List the deployments of a projection, newest first: version, generation, requester, reason and result.
#[derive(Debug, clap::Args)]
pub(super) struct History {
    #[command(flatten)]
    config: ConfigArgument,
    /// The projection's name.
    projection: String,
    /// Show at most this many entries.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..))]
    limit: i64,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl PlanArguments {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let plan = super::runtime()?.block_on(plan::plan(&config, executable()?, &self.file))?;
        match self.output {
            Output::Json => super::print_json(&plan),
            Output::Text => {
                out!("{}", to_text(&plan));
                Ok(())
            }
        }
    }
}

impl DeploymentArgs {
    /// Runs an operation for whoever called the command, who sees what it waits for.
    pub(super) fn operate<T>(
        self,
        config: &Config,
        operation: impl AsyncFnOnce(&Operations<'_>) -> Result<T, OperationError>,
    ) -> Result<T, CliError> {
        let requester = self.asked.with_reason(self.reason);
        let operations = Operations {
            config,
            executable: executable()?,
            requester: &requester,
            patience: self.timeout,
            progress: &|words| note!("{words}"),
        };
        Ok(super::runtime()?.block_on(operation(&operations))?)
    }
}

impl DeployArguments {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let (file, gaps, wait) = (self.file, Gaps::of(self.allow_gap), self.wait);
        let planned = |plan: &Plan| note!("{}", to_text(plan));
        let output = self.waited.output;
        let deploy = async |on: &Operations<'_>| on.deploy(&file, gaps, wait, &planned).await;
        print_outcome(output, &self.waited.operate(&config, deploy)?)
    }
}

impl Rollback {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let output = self.waited.output;
        let rollback = async |on: &Operations<'_>| on.rollback(&self.projection).await;
        print_outcome(output, &self.waited.operate(&config, rollback)?)
    }
}

impl Rebuild {
    pub(super) fn run(self) -> Result<(), CliError> {
        let config = self.config.load()?;
        let (output, gaps) = (self.waited.output, Gaps::of(self.allow_gap));
        let rebuild = async |on: &Operations<'_>| on.rebuild(&self.projection, gaps).await;
        print_outcome(output, &self.waited.operate(&config, rebuild)?)
    }
}

fn print_outcome(output: Output, outcome: &Outcome) -> Result<(), CliError> {
    if output == Output::Json {
        return super::print_json(outcome);
    }
    let name = &outcome.projection;
    match &outcome.deployment {
        None => out!("{name}: this component already is the active version."),
        Some(deployed) => {
            let version = deployed.version.as_deref().unwrap_or("?");
            let generation = deployed.generation.unwrap_or_default();
            let verdict =
                deployed.decision.result.as_ref().map(|verdict| format!(" ({verdict})")).unwrap_or_default();
            match (outcome.role, &outcome.trial) {
                (Some(role @ (Role::Building | Role::Warm)), _) => {
                    let role = role.as_str();
                    out!(
                        "{name}: version {version} runs in generation {generation}{verdict}, which is {role}: readers see another generation until `projector promote {name}`."
                    );
                }
                (_, Trial::Running) => out!(
                    "{name}: version {version} is active in generation {generation}{verdict}, and on trial: if it fails for an event for which the previous version does not fail, the host reverts to the previous version. `projector status {name}` shows the result of the trial; with --wait, this command waits for the result."
                ),
                (_, Trial::Passed) => out!(
                    "{name}: version {version} is active in generation {generation}{verdict}, and has passed its trial."
                ),
                _ => out!("{name}: version {version} is active in generation {generation}{verdict}."),
            }
        }
    }
    for (host, refusal) in &outcome.refusals {
        out!("  {host} cannot run this version, and has left the consumer group: {refusal}");
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
        let mut table =
            Listing::new(["when", "who", "what", "version", "generation", "state", "reason and result"]);
        for deployed in &history {
            let digest = deployed.digest.as_deref().unwrap_or_default();
            let version = deployed.version.as_deref().unwrap_or_default();
            let start = deployed.start.as_ref().map(|start| format!("began at: {start}"));
            let words: Vec<&str> = [&deployed.request.reason, &deployed.decision.result, &start]
                .into_iter()
                .filter_map(|words| words.as_deref())
                .collect();
            table.row([
                when(deployed.request.asked_at),
                deployed.request.asked_by.clone(),
                deployed.action.clone(),
                format!("{version} {}", digest.get(..12).unwrap_or(digest)),
                deployed.generation.map(|number| number.to_string()).unwrap_or_default(),
                deployed.decision.state.clone(),
                words.join("; "),
            ]);
        }
        table.print();
        Ok(())
    }
}

/// The offsets at which a new generation starts to read. Empty if it starts at the beginning of every
/// topic.
fn starts(replay: &Replay) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(problem) = &replay.start_problem {
        words.push(format!("  the projection would not run: {problem}"));
    }
    let behind = |found: &&PartitionStart| found.start != Some(found.log_begin);
    let behind: Vec<&PartitionStart> = replay.starts.iter().filter(behind).collect();
    if behind.is_empty() && replay.start == "earliest" {
        return words;
    }
    words.push(format!("  the generation starts at the configured start: {}", replay.start));
    for PartitionStart { topic, partition, log_begin, log_end, start, problem } in behind {
        words.push(match (start, problem) {
            (Some(start), _) => format!(
                "    {topic}/{partition} starts at offset {start}; its log goes from {log_begin} to {log_end}, so {} offsets are not read",
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
    let PlannedComponent { projection, version, digest, signer } = &plan.component;
    let TableChanges { steps, reasons, rows_stay } = &plan.tables;
    let mut words = vec![format!("{projection} {version} ({})", &digest[..12])];
    if let Some(signer) = signer {
        words.push(format!("  signed or listed by {signer}"));
    }
    let active = plan.active.as_ref();
    let now = active.map(|active| format!("version {} in generation {}", active.version, active.generation));
    let now = now.unwrap_or_else(|| "nothing".to_owned());
    words.push(match plan.change {
        "nothing" => format!("  nothing to do: this component is already active ({now})"),
        "first" => "  the projection's first generation: readers see it at once".to_owned(),
        "in-place" => format!("  in place of {now}"),
        _ => format!("  a new generation beside {now}; all rows are built again, because:"),
    });
    if plan.store_is_new {
        words.push("  the store is new: the first `projector run` creates the host's tables".to_owned());
    }
    words.extend(reasons.iter().map(|reason| format!("    {reason}")));
    for step in steps {
        words.push(format!("    {}: locks {}", step.words, step.locks));
    }
    if plan.change == "in-place" && steps.is_empty() {
        words.push("    no table changes, and nothing is locked".to_owned());
    }
    if !rows_stay.is_empty() {
        words.push(format!(
            "  existing rows stay as earlier versions wrote them, in {}; to build them again, raise `revision` or run `projector rebuild {projection}`",
            rows_stay.join(", "),
        ));
    }
    if let Some(readers) = &plan.move_readers {
        words.extend(readers.to_lines().into_iter().map(|line| format!("  {line}")));
    }
    if let Some(replay) = &plan.replay {
        let Replay { events, estimated_seconds, beyond_reach, log_begins_later, unknown, .. } = replay;
        let time = humantime::format_duration(Duration::from_secs(estimated_seconds.ceil() as u64));
        words.push(format!("  {events} events to replay: about {time}"));
        words.extend(starts(replay));
        if let Some(beyond) = beyond_reach.as_ref().filter(|beyond| !beyond.is_empty()) {
            words
                .push(format!("  {}: with --allow-gap the generation starts without them", beyond.to_text()));
        }
        for (partition, first) in log_begins_later {
            words.push(format!(
                "  the log of {partition} begins at offset {first}: earlier events are missing (`projector backfill` adds them from a file)"
            ));
        }
        words.extend(unknown.iter().map(|why| format!("  unknown, and not counted: {why}")));
    }
    if !plan.order_dependent.is_empty() {
        words.push(format!(
            "  depends on the order between partitions: {} (see `projector inspect`)",
            plan.order_dependent.join(", ")
        ));
    }
    words.extend(plan.warnings.iter().map(|warning| format!("  warning: {warning}")));
    if plan.had_before && plan.change != "nothing" {
        words.push("  the projection had this component before: only `projector deploy` deploys it again, not the plugin directory".to_owned());
    }
    words.join("\n")
}
