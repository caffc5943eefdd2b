//! Who competes: the host with one of three plugins, with a hostile one beside, and a program without any
//! host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use projector_workload::{CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED, ORDER_CONFIRMED};

/// How many transactions a host writes side by side. The host allows itself one where a batch has to
/// see what others wrote.
pub(crate) const LANES: usize = 1;

/// How many events one transaction takes at most, of the host and of the program without one.
pub(crate) const BATCH_EVENTS: usize = 1_000;

/// What the hostile plugin reads.
pub(crate) const HOSTILE_EVENTS: &str = "hostile.events.v1";

const TOPICS: [&str; 4] =
    [ORDER_CONFIRMED, CUSTOMER_COUNTRY_CHANGED, CUSTOMER_PROFILE_UPDATED, HOSTILE_EVENTS];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Contender {
    /// The host with the plugin `order-search`, which keeps a copy of the customers and looks them up.
    OrderSearch,
    /// The host with the plugin `order-search-plain`, which does neither.
    Plain,
    /// The same, beside a plugin that never returns, on events enough for all of the time.
    Besieged,
    /// The host with the plugin `sales-by-country`, which counts and sums orders.
    SalesByCountry,
    /// The hand-written program, which does what `plain` does.
    Native,
}

/// Where the programs and the plugins are.
pub(crate) struct Programs {
    pub(crate) projector: PathBuf,
    pub(crate) native: PathBuf,
    pub(crate) guests: PathBuf,
}

/// What a contender has to be told.
pub(crate) struct Surroundings<'a> {
    pub(crate) brokers: &'a str,
    pub(crate) database: &'a str,
    /// Before the names of the topics.
    pub(crate) topic_prefix: &'a str,
    /// Its own, and empty.
    pub(crate) directory: &'a Path,
}

impl Contender {
    pub(crate) const ALL: [Contender; 5] = [
        Contender::OrderSearch,
        Contender::Plain,
        Contender::Besieged,
        Contender::SalesByCountry,
        Contender::Native,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::OrderSearch => "order-search",
            Contender::Plain => "plain",
            Contender::Besieged => "besieged",
            Contender::SalesByCountry => "sales-by-country",
            Contender::Native => "native",
        }
    }

    pub(crate) fn describe(self) -> &'static str {
        match self {
            Contender::OrderSearch => {
                "host, plugin `order-search`: looks up its copy of the customers, right in any order"
            }
            Contender::Plain => "host, plugin `order-search-plain`: no copy, no lookups",
            Contender::Besieged => {
                "as `plain`, beside a plugin that loops on each of its events until its fuel ends"
            }
            Contender::SalesByCountry => "host, plugin `sales-by-country`: sums; reads orders only",
            Contender::Native => {
                "hand-written program, does what `plain` does (rdkafka, sqlx, no WebAssembly)"
            }
        }
    }

    /// The host's plugin; `None` for the program that needs none.
    pub(crate) fn plugin(self) -> Option<&'static str> {
        match self {
            Contender::OrderSearch => Some("order-search"),
            Contender::Plain | Contender::Besieged => Some("order-search-plain"),
            Contender::SalesByCountry => Some("sales-by-country"),
            Contender::Native => None,
        }
    }

    /// The plugin beside it, and the projection's name.
    pub(crate) fn beside(self) -> Option<&'static str> {
        (self == Contender::Besieged).then_some("hostile-guest")
    }

    /// Whether it consumes this topic; given with its prefix.
    pub(crate) fn reads(self, topic: &str) -> bool {
        self != Contender::SalesByCountry || topic.ends_with(ORDER_CONFIRMED)
    }

    /// Asks how many events are committed: what the offsets add up to, as every partition begins
    /// with offset 0 and has no gaps.
    pub(crate) fn progress_sql(self) -> String {
        match self.plugin() {
            Some(projection) => format!(
                "select coalesce(sum(c.next_offset), 0)::int8
                 from projector.checkpoint c join projector.generation g on g.id = c.generation_id
                 where g.projection = '{projection}'"
            ),
            None => "select coalesce(sum(next_offset), 0)::int8 from consumer_offset".to_owned(),
        }
    }

    /// The table or view that readers ask.
    pub(crate) fn read_model(self) -> &'static str {
        match self {
            Contender::OrderSearch => "order_search.order_search",
            Contender::Plain | Contender::Besieged => "order_search_plain.order_search",
            Contender::SalesByCountry => "sales_by_country.sales_by_country",
            Contender::Native => "public.order_search",
        }
    }

    /// The command that starts it.
    pub(crate) fn command(self, programs: &Programs, surroundings: &Surroundings<'_>) -> Result<Command> {
        let Surroundings { brokers, database, topic_prefix, directory } = surroundings;
        let Some(plugin) = self.plugin() else {
            let mut command = Command::new(&programs.native);
            command
                .args(["--brokers", brokers, "--database", database, "--topic-prefix", topic_prefix])
                // Every run has a database of its own, and so a group of its own.
                .args(["--group", database.rsplit('/').next().unwrap_or("native")])
                .args(["--batch-events", &BATCH_EVENTS.to_string()]);
            return Ok(command);
        };
        let plugins = directory.join("plugins");
        fs::create_dir(&plugins).with_context(|| format!("cannot create {}", plugins.display()))?;
        for plugin in [plugin].into_iter().chain(self.beside()) {
            let component = programs.guests.join(plugin).with_extension("wasm");
            fs::copy(&component, plugins.join(plugin).with_extension("wasm")).with_context(|| {
                format!("no component {}; `cargo xtask guests` builds it", component.display())
            })?;
        }
        let config = directory.join("projector.toml");
        fs::write(&config, configuration(surroundings))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new(&programs.projector);
        command.args(["run", "--log-format", "json", "--log", "info", "--config"]).arg(&config);
        Ok(command)
    }
}

/// All that the host needs to be told.
fn configuration(surroundings: &Surroundings<'_>) -> String {
    let Surroundings { brokers, database, topic_prefix, .. } = surroundings;
    let topics: String =
        TOPICS.iter().map(|topic| format!("\"{topic}\" = \"{topic_prefix}{topic}\"\n")).collect();
    format!(
        r#"lanes = {LANES}

[kafka]
brokers = "{brokers}"

[kafka.topics]
{topics}
[plugins]
directory = "plugins"

[store]
url = "{database}"

[batch]
events = {BATCH_EVENTS}

# A plugin that fails on every event would stand still after a hundred: here it goes on.
[failures]
consecutive = 1_000_000
ratio = 1.0
"#
    )
}
