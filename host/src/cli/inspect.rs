//! `projector inspect`: shows a plugin's descriptor and what follows from it.

use std::path::PathBuf;
use std::time::Duration;

use comfy_table::{Table, presets};
use humantime_serde::re::humantime;
use projector_config::Limits;
use projector_model::descriptor::{Operation, Statement, StatementKind};
use projector_sandbox::{Engine, Plugin, compile::Compiler};

use super::terminal::out;
use super::{CliError, Output};
use crate::operations::inspect::{Inspection, inspect};

/// Show what a plugin reads, owns and may write, and which columns depend on the order between partitions.
///
/// The command checks the component as a host does when it loads the component. It needs no broker and no
/// database.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The component file.
    file: PathBuf,
    /// Also show which statements of a batch can be merged, and why others cannot. The JSON output always
    /// includes this.
    #[arg(long)]
    explain: bool,
    /// How to print the answer.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(arguments: Arguments) -> Result<(), CliError> {
    let bytes = super::read(&arguments.file)?;
    let limits = Limits::default();
    let compiler = Compiler {
        executable: super::executable()?,
        time: limits.component.compile_time,
        memory_bytes: limits.component.compile_memory_bytes,
    };
    let engine =
        Engine::new(limits.instance.stack_bytes).map_err(|error| CliError::failed(format!("{error:#}")))?;
    let plugin = Plugin::load(&engine, &compiler, &limits, &bytes)
        .map_err(|error| CliError::failed(format!("{} is refused: {error}", arguments.file.display())))?;
    let inspection = inspect(&plugin, bytes.len());
    match arguments.output {
        Output::Json => super::print_json(&inspection),
        Output::Text => {
            print(&inspection);
            if arguments.explain {
                print_merging(&inspection);
            }
            Ok(())
        }
    }
}

fn print(inspection: &Inspection) {
    let descriptor = &inspection.descriptor;
    out!("{} {} (revision {})", descriptor.name, descriptor.version, descriptor.revision);
    out!("sha256 {}, {} bytes\n", inspection.digest, inspection.bytes);

    let mut topics = table(["reads topic", "may lead to", "looks up"]);
    for topic in &descriptor.topics {
        topics.add_row([topic.name.clone(), topic.statements.join("\n"), topic.lookups.join("\n")]);
    }
    out!("{topics}\n");

    let mut tables = table(["owns table", "column", "type", ""]);
    for owned in &descriptor.tables {
        for (at, column) in owned.columns.iter().enumerate() {
            let key = if owned.key.contains(&column.name) { "key" } else { "" };
            let nullable = if column.nullable { "nullable" } else { key };
            let name = if at == 0 { owned.name.as_str() } else { "" };
            tables.add_row([name, &column.name, &column.ty.to_string(), nullable]);
        }
        if owned.lineage {
            tables.add_row(["", "_topic, _partition, _offset, _digest", "", "lineage, hidden from readers"]);
        }
    }
    out!("{tables}\n");

    let mut statements = table(["may write", "to", "what"]);
    for statement in &descriptor.statements {
        statements.add_row([statement.name.clone(), statement.table.clone(), explain(statement)]);
    }
    out!("{statements}\n");

    if !descriptor.lookups.is_empty() {
        let mut lookups = table(["may look up", "in", "by"]);
        for lookup in &descriptor.lookups {
            lookups.add_row([lookup.name.clone(), lookup.table.clone(), lookup.by.join(", ")]);
        }
        out!("{lookups}\n");
    }
    for (title, codes) in [("ignores", &descriptor.ignores), ("rejects", &descriptor.rejects)] {
        for code in codes {
            out!("{title} {}: {}", code.code, code.meaning);
        }
    }
    match &inspection.one_writer {
        Some(reason) => out!("\nBatches are written one after the other: {reason}."),
        None => out!("\nAll statements write by key: batches can be written at the same time."),
    }
    for topic in &descriptor.topics {
        if let Some(seconds) = topic.wait_seconds {
            let age = humantime::format_duration(Duration::from_secs(seconds.into()));
            out!(
                "Events of {} may wait up to {age}, in event time, for a row that does not exist yet.",
                topic.name
            );
        }
    }
    print_rejections(inspection);
    if inspection.order_dependences.is_empty() {
        out!("No column depends on the order between partitions.");
        return;
    }
    out!("\nColumns that more than one source writes. Kafka gives no order between the sources:");
    for dependence in &inspection.order_dependences {
        out!("  {}.{}: {}", dependence.table, dependence.column, dependence.sources.join(", "));
        match &dependence.settled_by {
            Some(read) => out!("    no problem if the plugin decides by this read: {read}"),
            None => out!("    the value depends on their order; to avoid this: {}", dependence.remedy),
        }
    }
}

fn print_rejections(inspection: &Inspection) {
    if inspection.rejection_dependences.is_empty() {
        return;
    }
    out!(
        "\nEvents that may be rejected because a row of another topic is missing. Kafka gives no order between the topics:"
    );
    for dependence in &inspection.rejection_dependences {
        let sources = dependence.sources.join(", ");
        out!(
            "  {} {}: the rows of {} come from {sources}",
            dependence.topic,
            dependence.by,
            dependence.table
        );
        let when =
            if dependence.certain { "" } else { "if the handler rejects depending on what it finds: " };
        out!("    {when}{}", dependence.remedy);
    }
    out!("");
}

fn print_merging(inspection: &Inspection) {
    out!("\nHow the changes of a batch are merged. Changes that keep their order may need more statements:");
    let mut merging = table(["table", "statement", "with", "they"]);
    for pair in &inspection.merging {
        let with = pair.with.as_deref().unwrap_or("itself, on the same rows");
        merging.add_row([&pair.table, &pair.statement, with, &pair.verdict]);
    }
    out!("{merging}");
}

fn explain(statement: &Statement) -> String {
    let set: Vec<String> = statement
        .set
        .iter()
        .map(|assignment| match assignment.operation {
            Operation::Set => assignment.column.clone(),
            Operation::Add => format!("{} += ", assignment.column).trim_end().to_owned(),
            Operation::Min => format!("min({})", assignment.column),
            Operation::Max => format!("max({})", assignment.column),
            Operation::SetIfNull => format!("{} if null", assignment.column),
            Operation::Keep => format!("{} once", assignment.column),
        })
        .collect();
    let kind = match statement.kind {
        StatementKind::Upsert => "upsert by key",
        StatementKind::InsertOnce => "insert once by key",
        StatementKind::Update => "update",
        StatementKind::Delete => "delete",
    };
    let by = if statement.by.is_empty() { String::new() } else { format!(" by {}", statement.by.join(", ")) };
    let guard = statement.guard.as_ref().map_or(String::new(), |guard| format!(", unless {guard} is newer"));
    let columns = if set.is_empty() { String::new() } else { format!(": {}", set.join(", ")) };
    format!("{kind}{by}{columns}{guard}")
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header);
    table
}
