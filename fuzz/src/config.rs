//! The platform's configuration.

use std::fmt::Write;

use miette::{GraphicalReportHandler, GraphicalTheme};
use projector_config::{Config, ConfigError};

use crate::{Shape, Target};

pub(crate) const TARGET: Target =
    Target { name: "config", check, seeds, most_bytes: 4_096, shape: Shape::Free };

/// It is taken, and every question to it has an answer; or it is refused, and the report names a place
/// that is there.
fn check(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    match Config::parse("projector.toml", text) {
        Ok(config) => {
            asked(&config);
            true
        }
        Err(error) => {
            let ConfigError::Invalid { line, span, .. } = &*error else {
                panic!("nothing was read: {error}")
            };
            let lines = text.matches('\n').count() + 1;
            assert!((1..=lines).contains(line), "line {line} of {lines}: {error}");
            if let Some(span) = span {
                let place = span.offset()..span.offset() + span.len();
                assert!(text.get(place).is_some(), "{span:?} is no place in the text: {error}");
            }
            shown(&error);
            false
        }
    }
}

fn asked(config: &Config) {
    let names = config.projections.keys().map(String::as_str).chain(["unnamed"]);
    for name in names {
        assert!(config.all_stores().any(|store| std::ptr::eq(store, config.store_of(name))));
        assert!(config.lanes_of(name) > 0);
        let _ = (config.limits_of(name), config.batch_of(name).limits());
    }
    for logical in config.kafka.topics.keys() {
        assert!(
            config
                .topics_of([logical.as_str()])
                .is_ok_and(|topics| topics.has_patterns() || !topics.topics([""]).is_empty())
        );
    }
    let _ = (config.kafka.session_timeout(), format!("{config:?}"));
}

/// As a person sees it, with the place in the text.
fn shown(error: &ConfigError) {
    let mut report = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode_nocolor());
    handler.render_report(&mut report, error).expect("a report that can be shown");
    write!(report, "{error}").expect("a string");
    assert!(report.contains("projector.toml"));
}

fn seeds() -> Vec<Vec<u8>> {
    let example = include_str!("../../projector.toml");
    // What is commented out, but for the secrets.
    let whole: String = example
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .filter(|rest| rest.contains(" = ") || rest.starts_with('['))
                .unwrap_or(line)
        })
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| without_variables(line) + "\n")
        .collect();
    let small = "kafka.brokers = \"a:9092\"\nplugins.directory = \".\"\nstore.url = \"sqlite://a.db\"\n";
    [example, &whole, small].map(|text| text.as_bytes().to_vec()).into()
}

/// `a` in place of every `${…}`.
fn without_variables(line: &str) -> String {
    let mut parts = line.split("${");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "a" + part.split_once('}').map_or("", |(_, rest)| rest))
}
