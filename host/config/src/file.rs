//! Reads the configuration file.
//!
//! Most tables have a structure of their own. The tables and keys that are defaults of projections stand at
//! the top of the file, and belong together in [`Defaults`](super::Defaults). So the top of the file is read
//! key by key: serde's `flatten` would lose the lines of errors and accept unknown keys.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use humantime_serde::Serde;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::Config;
use super::error::ConfigError;
use super::origin::Origin;
use super::projection::Defaults;

/// The default of `shutdown-deadline`.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(10);

impl Config {
    /// Reads and checks a configuration file. Relative paths in it are resolved against its directory.
    pub fn load(path: &Path) -> Result<Self, Box<ConfigError>> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: shown.clone(), source })?;
        let mut config = Self::parse(&shown, &text)?;
        let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
        config.resolve(&base);
        Ok(config)
    }

    /// Checks a configuration's text. `path` is used for errors only. Relative paths in the text stay as
    /// they are.
    pub fn parse(path: &str, text: &str) -> Result<Self, Box<ConfigError>> {
        let origin = Origin { path: path.into(), text: text.into() };
        let mut config: Config =
            toml::from_str(text).map_err(|error| origin.at(error.message(), error.span()))?;
        config.origin = origin;
        config.check().map_err(|problem| config.invalid(problem))?;
        Ok(config)
    }

    fn resolve(&mut self, base: &Path) {
        self.plugins.resolve(base);
        std::iter::once(&mut self.store)
            .chain(self.stores.values_mut())
            .for_each(|store| store.resolve(base));
        self.kafka.resolve(base);
    }
}

/// The keys at the top of the file, in the order in which an error lists them.
#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "kebab-case")]
enum Key {
    Kafka,
    Plugins,
    Store,
    Stores,
    Projections,
    Limits,
    Batch,
    Failures,
    Lanes,
    Deploy,
    Keep,
    Admin,
    ShutdownDeadline,
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(File)
    }
}

struct File;

impl<'de> Visitor<'de> for File {
    type Value = Config;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut file: A) -> Result<Config, A::Error> {
        let (mut kafka, mut plugins, mut store, mut admin) = (None, None, None, None);
        let (mut stores, mut projections) = (BTreeMap::new(), BTreeMap::new());
        let mut defaults = Defaults::default();
        let mut shutdown_deadline = SHUTDOWN_DEADLINE;
        while let Some(key) = file.next_key()? {
            match key {
                Key::Kafka => kafka = Some(file.next_value()?),
                Key::Plugins => plugins = Some(file.next_value()?),
                Key::Store => store = Some(file.next_value()?),
                Key::Stores => stores = file.next_value()?,
                Key::Projections => projections = file.next_value()?,
                Key::Limits => defaults.limits = file.next_value()?,
                Key::Batch => defaults.batch = file.next_value()?,
                Key::Failures => defaults.failures = file.next_value()?,
                Key::Lanes => defaults.lanes = file.next_value()?,
                Key::Deploy => defaults.deploy = file.next_value()?,
                Key::Keep => defaults.keep = file.next_value()?,
                Key::Admin => admin = Some(file.next_value()?),
                Key::ShutdownDeadline => {
                    shutdown_deadline = file.next_value::<Serde<Duration>>()?.into_inner()
                }
            }
        }
        let missing = A::Error::missing_field;
        Ok(Config {
            kafka: kafka.ok_or_else(|| missing("kafka"))?,
            plugins: plugins.ok_or_else(|| missing("plugins"))?,
            store: store.ok_or_else(|| missing("store"))?,
            stores,
            projections,
            defaults,
            admin,
            shutdown_deadline,
            origin: Origin::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"
[kafka]
brokers = "localhost:9092"
[kafka.topics]
"order.confirmed.v2" = "prod.order.confirmed.v2"
[plugins]
directory = "plugins"
[store]
url = "sqlite://readmodel.db"
[stores.analytics]
url = "postgres://localhost/analytics"
lock-timeout = "2s"
[projections.sales]
store = "analytics"
"#;

    fn error(text: &str) -> (String, String) {
        let error = Config::parse("projector.toml", text).expect_err("an error");
        let help = miette::Diagnostic::help(&*error).map(|help| help.to_string()).unwrap_or_default();
        (error.to_string(), help)
    }

    #[test]
    fn the_example_is_sound_and_shows_every_default() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../projector.toml");
        let example = std::fs::read_to_string(path).expect("the example");
        let parsed = Config::parse("projector.toml", &example).expect("sound");
        // What is commented out is uncommented, but for secrets and for tables that need others.
        let shown: String = example
            .lines()
            .map(|line| {
                line.strip_prefix("# ")
                    .filter(|rest| rest.contains(" = ") || rest.starts_with('['))
                    .unwrap_or(line)
            })
            .filter(|line| !line.contains("${"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let shown = shown.replace("[stores.analytics]", "[stores.analytics]\nurl = \"sqlite://a.db\"");
        let shown = shown.replace("username = \"projector\"", "username = \"projector\"\npassword = \"x\"");
        let shown = shown.replace("[admin.tokens.ann]", "[admin.tokens.ann]\ntoken = \"x\"");
        let shown = Config::parse("projector.toml", &shown).expect("every key exists");
        assert_eq!(format!("{:?}", shown.defaults), format!("{:?}", parsed.defaults));
        assert_eq!(shown.plugins.rescan, parsed.plugins.rescan);
        assert_eq!(shown.shutdown_deadline, parsed.shutdown_deadline);
    }

    #[test]
    fn a_projection_may_have_a_store_of_its_own() {
        let config = Config::parse("projector.toml", SOUND).expect("sound");
        assert_eq!(&*config.store_of("sales").url, "postgres://localhost/analytics");
        assert_eq!(config.store_of("sales").lock_timeout, Duration::from_secs(2));
        assert_eq!(&*config.store_of("order-search").url, "sqlite://readmodel.db");
        let topics = config.topics_of(["order.confirmed.v2", "other"]).expect("sound");
        let names: Vec<String> = topics.topics::<&str>([]).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["other", "prod.order.confirmed.v2"]);
    }

    #[test]
    fn a_logical_topic_is_one_several_or_all_that_match() {
        let written = r#"
"a" = ["eu.a", "us.a"]
"b" = { pattern = '^tenant-[a-z]+\.b$' }
[plugins]"#;
        let text = SOUND.replace("\n[plugins]", written);
        let config = Config::parse("projector.toml", &text).expect("sound");
        let mapping = config.topics_of(["a", "b", "c"]).expect("sound");
        assert_eq!(mapping.places("us.a"), [0]);
        assert_eq!(mapping.places("tenant-x.b"), [1]);
        assert_eq!(mapping.places("c"), [2]);
        for (wrong, expected) in [
            ("[]", "projector.toml:5: the list of physical topics is empty"),
            ("[\"x\", \"x\"]", "projector.toml:5: the list of physical topics names `x` twice"),
            ("\"^x\"", "projector.toml:5: `^x` is a pattern, not a topic's name: write { pattern = '^x' }"),
            (
                "{ pattern = '^.*$' }",
                "projector.toml:5: the pattern `^.*$` matches the internal topic `__consumer_offsets`",
            ),
            ("{ patern = '^x$' }", "projector.toml:5: unknown field `patern`"),
            ("\"__consumer_offsets\"", "projector.toml:5: `__consumer_offsets` is a topic that Kafka keeps"),
        ] {
            let (message, _) = error(&SOUND.replace("\"prod.order.confirmed.v2\"", wrong));
            assert!(message.starts_with(expected), "{wrong}: {message}");
        }
    }

    #[test]
    fn an_unknown_key_is_answered_with_line_and_nearest_key() {
        let (message, help) = error(&format!("lane = 2\n{SOUND}"));
        assert!(message.starts_with("projector.toml:1: unknown field `lane`"), "{message}");
        assert_eq!(help, "did you mean `lanes`?");
        let (message, help) = error(&SOUND.replace("brokers =", "broker ="));
        assert!(message.starts_with("projector.toml:3:"), "{message}");
        assert_eq!(help, "did you mean `brokers`?");
    }

    #[test]
    fn an_unknown_store_is_named_where_it_stands() {
        let (message, help) = error(&SOUND.replace("store = \"analytics\"", "store = \"analitics\""));
        assert!(message.starts_with("projector.toml:14:"), "{message}");
        assert_eq!(help, "did you mean `analytics`?");
    }

    #[test]
    fn properties_that_the_host_relies_on_are_refused() {
        let (message, _) =
            error(&format!("{SOUND}[kafka.properties]\n\"isolation.level\" = \"read_uncommitted\"\n"));
        assert!(message.starts_with("projector.toml:16:"), "{message}");
    }

    #[test]
    fn a_share_is_one_of_a_whole() {
        for (written, is_sound) in
            [("0.0", true), ("1", true), ("1.5", false), ("-0.1", false), ("nan", false)]
        {
            let text = format!("{SOUND}[limits]\npurity-sample = {written}\n");
            assert_eq!(Config::parse("projector.toml", &text).is_ok(), is_sound, "{written}");
        }
        let (message, _) = error(&format!("{SOUND}[limits]\npurity-sample = 20.0\n"));
        assert!(message.starts_with("projector.toml:16: 20 is not a share"), "{message}");
    }

    #[test]
    fn a_stack_that_no_thread_has_is_refused() {
        let (message, _) = error(&format!("{SOUND}[limits]\nstack-bytes = 2_000_000\n"));
        assert!(
            message.starts_with("projector.toml:16:") && message.contains("at most 1048576"),
            "{message}"
        );
    }

    const KEY: &str = "RWTWKNoI37OtkWb1u2p9B5zg1W1D3mFLRLfHQzFey24nHXttU4tDfWDg";

    #[test]
    fn a_team_has_a_public_key_and_it_alone() {
        let text = format!("{SOUND}[plugins.teams.checkout]\nkey = \"{KEY}\"\nprojections = [\"sales\"]\n");
        let config = Config::parse("projector.toml", &text).expect("sound");
        assert!(config.plugins.teams["checkout"].projections.is_some());
        let (message, _) = error(&text.replace("RW", "RX"));
        assert!(message.starts_with("projector.toml:16:") && message.contains("minisign.pub"), "{message}");
        let (message, _) = error(&format!("{text}[plugins.teams.sales]\nkey = \"{KEY}\"\n"));
        assert!(
            message.starts_with("projector.toml:18: plugins.teams.sales.key is the same as that of"),
            "{message}"
        );
    }

    #[test]
    fn a_lock_is_looked_for_beside_the_configuration() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("projector.toml");
        std::fs::write(&path, SOUND).expect("written");
        assert_eq!(Config::load(&path).expect("sound").plugins.lock, None);
        std::fs::write(directory.path().join("plugins.lock"), "").expect("written");
        let found = Config::load(&path).expect("sound").plugins;
        assert_eq!(found.lock, Some(directory.path().join("plugins.lock")));
        assert_eq!(found.directory, directory.path().join("plugins"));
        let named = SOUND.replace("[plugins]", "[plugins]\nlock = \"other.lock\"");
        std::fs::write(&path, named).expect("written");
        let named = Config::load(&path).expect("sound").plugins.lock;
        assert_eq!(named, Some(directory.path().join("other.lock")));
    }

    #[test]
    fn a_table_that_is_missing_or_of_another_type_is_named() {
        let (message, _) = error(&SOUND.replace("[store]\nurl = \"sqlite://readmodel.db\"\n", ""));
        assert!(message.contains("missing field `store`"), "{message}");
        let (message, _) = error(&format!("limits = 5\n{SOUND}"));
        assert!(message.starts_with("projector.toml:1: invalid type: integer `5`"), "{message}");
        let (message, _) = error(&format!("shutdown-deadline = \"soon\"\n{SOUND}"));
        assert!(message.starts_with("projector.toml:1: invalid value: string"), "{message}");
    }
}
