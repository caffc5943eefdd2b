//! Checks that Kafka clients can be created with the configuration. Called before anything else, so that a wrong
//! property, a missing file or a wrong password of a key is reported as an error in the configuration.

use std::ffi::CStr;
use std::path::Path;
use std::sync::OnceLock;

use projector_config::{Problem, SaslMechanism, nearest_property};
use rdkafka::ClientContext;
use rdkafka::bindings as native;
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaType;

use super::certificate;
use super::client::consumer_config;
use super::log_error::LogError;

/// Finds the configuration key that prevents a client. No broker is asked.
pub fn verify(kafka: &projector_config::Kafka) -> Result<(), Problem> {
    if !cfg!(feature = "tls") {
        check_without_tls(kafka)?;
    }
    for (name, value) in &kafka.properties {
        check_property(name, value)?;
    }
    check_files(kafka)?;
    make_client(kafka).map_err(|error| {
        let message = match &error {
            LogError::Client(KafkaError::ClientCreation(reason)) => reason.clone(),
            error => error.to_string(),
        };
        problem_of(kafka, &message)
    })
}

/// Creates a client that does not connect to anything, and drops it.
pub(super) fn make_client(kafka: &projector_config::Kafka) -> Result<(), LogError> {
    let mut config = consumer_config(kafka, "verify").map_err(LogError::Secret)?;
    config.remove("bootstrap.servers").remove("group.id");
    let native = config.create_native_config().map_err(LogError::Client)?;
    Client::new(&config, native, RDKafkaType::RD_KAFKA_CONSUMER, Silent).map_err(LogError::Client)?;
    Ok(())
}

struct Silent;

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, _: KafkaError, _: &str) {}
}

/// Refuses what librdkafka cannot do without OpenSSL: TLS, and SASL with any mechanism but PLAIN.
fn check_without_tls(kafka: &projector_config::Kafka) -> Result<(), Problem> {
    let what = match kafka.mechanism() {
        _ if kafka.protocol().is_tls => "TLS".to_owned(),
        None | Some(SaslMechanism::Plain) => return Ok(()),
        Some(mechanism) => format!("SASL mechanism {mechanism}"),
    };
    let mut problem = Problem::of("kafka", format!("{what} to Kafka is not built into this program"));
    problem.help =
        Some("use a program that is built with the cargo feature `tls`: every release is".to_owned());
    Err(problem)
}

/// Refuses a property that librdkafka does not know, does not accept, or would ignore.
fn check_property(name: &str, value: &str) -> Result<(), Problem> {
    let known = properties();
    match known.iter().find(|known| known.name == name) {
        None => {
            let names = known.iter().map(|known| known.name.as_str());
            let mut problem = Problem::of_property(name, format!("librdkafka has no property {name}"));
            problem.help = nearest_property(name, names);
            return Err(problem);
        }
        Some(known) if known.is_for_producers => {
            return Err(Problem::of_property(
                name,
                format!("{name} is a property of producers and would have no effect: remove it"),
            ));
        }
        Some(_) => {}
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, reason, ..)) => {
            let reason =
                if projector_config::is_secret(name) { reason.replace(value, "…") } else { reason };
            Err(Problem::of_property(name, reason))
        }
        Err(error) => Err(Problem::of_property(name, format!("{name} cannot be set: {error}"))),
    }
}

/// Refuses files that cannot be read, and an expired certificate.
fn check_files(kafka: &projector_config::Kafka) -> Result<(), Problem> {
    let of_tls = kafka.tls.iter().flat_map(|tls| {
        [("kafka.tls.ca", &tls.ca), ("kafka.tls.certificate", &tls.certificate), ("kafka.tls.key", &tls.key)]
    });
    let of_oidc = kafka.sasl.iter().filter_map(|sasl| sasl.oidc.as_ref());
    let of_oidc = of_oidc.map(|oidc| ("kafka.sasl.oidc.ca", &oidc.ca));
    for (key, file) in of_tls.chain(of_oidc) {
        let Some(file) = file else { continue };
        if let Err(error) = std::fs::read(&**file) {
            return Err(Problem::of(key, format!("{key}: the file {} cannot be read: {error}", &**file)));
        }
    }
    let own = kafka.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
    if let Some((file, day)) = own.and_then(|file| Some((file, certificate::expired(Path::new(&**file))?))) {
        let message = format!("kafka.tls.certificate: the client certificate {} expired on {day}", &**file);
        return Err(Problem::of("kafka.tls.certificate", message));
    }
    for (name, file) in &kafka.properties {
        let is_file = name.starts_with("ssl.") && name.ends_with(".location") && &**file != "probe";
        if is_file && let Err(error) = std::fs::metadata(&**file) {
            let message = format!("{name}: {} cannot be read: {error}", &**file);
            return Err(Problem::of_property(name, message));
        }
    }
    Ok(())
}

/// Maps librdkafka's error to a configuration key, by the property that the error names.
fn problem_of(kafka: &projector_config::Kafka, reason: &str) -> Problem {
    let file =
        |file: &Option<projector_config::Text>| file.as_ref().map_or(String::new(), |file| file.to_string());
    let tls = kafka.tls.clone().unwrap_or_default();
    let has = |words: &str| reason.contains(words);
    if has("ssl.ca.location") && tls.ca.is_some() {
        let message =
            format!("kafka.tls.ca: {} contains no certificate in PEM format: {reason}", file(&tls.ca));
        return Problem::of("kafka.tls.ca", message);
    }
    if has("ssl.certificate.location") && tls.certificate.is_some() {
        let certificate = file(&tls.certificate);
        let message =
            format!("kafka.tls.certificate: {certificate} contains no certificate in PEM format: {reason}");
        return Problem::of("kafka.tls.certificate", message);
    }
    if (has("ssl.key.location") || has("rivate key")) && tls.key.is_some() {
        let key = file(&tls.key);
        let why = match &tls.key_password {
            _ if has("mismatch") => "does not belong to the certificate",
            Some(_) => "cannot be read with this key-password",
            None => "cannot be read: it is not in PEM format, or it needs a key-password",
        };
        return Problem::of("kafka.tls.key", format!("kafka.tls.key: the key {key} {why} ({reason})"));
    }
    match kafka.properties.keys().find(|name| has(name)) {
        Some(name) => Problem::of_property(name, format!("librdkafka refuses the configuration: {reason}")),
        None => Problem::of("kafka", format!("librdkafka refuses the configuration: {reason}")),
    }
}

/// A property of librdkafka.
struct Property {
    name: String,
    /// For producers only.
    is_for_producers: bool,
}

/// All properties of librdkafka, from the table that librdkafka prints.
fn properties() -> &'static [Property] {
    static PROPERTIES: OnceLock<Vec<Property>> = OnceLock::new();
    PROPERTIES.get_or_init(|| {
        table()
            .lines()
            .filter_map(|line| {
                let mut columns = line.split('|').map(str::trim);
                let (name, users) = (columns.next()?, columns.next()?);
                let is_name = !name.is_empty()
                    && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._".contains(c));
                is_name.then(|| Property { name: name.to_owned(), is_for_producers: users == "P" })
            })
            .collect()
    })
}

fn table() -> String {
    let (mut text, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: the stream is closed before its memory is read, and that is freed once, after it was copied.
    unsafe {
        let stream = libc::open_memstream(&mut text, &mut size);
        if stream.is_null() {
            return String::new();
        }
        native::rd_kafka_conf_properties_show(stream);
        libc::fclose(stream);
        let table = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafka_names_its_properties() {
        let known = properties();
        assert!(known.len() > 100, "{} properties", known.len());
        for (name, is_for_producers) in
            [("fetch.wait.max.ms", false), ("linger.ms", true), ("sasl.mechanisms", false)]
        {
            let found = known.iter().find(|known| known.name == name).expect(name);
            assert_eq!(found.is_for_producers, is_for_producers, "{name}");
        }
    }

    #[test]
    fn a_program_without_tls_refuses_a_configuration_that_needs_it() {
        let login = "username = \"a\"\npassword = \"b\"\n";
        for (tables, missing) in [
            ("", None),
            ("[kafka.sasl]\nmechanism = \"PLAIN\"\n", None),
            ("[kafka.sasl]\nmechanism = \"SCRAM-SHA-512\"\n", Some("SASL mechanism SCRAM-SHA-512")),
            ("[kafka.tls]\n[kafka.sasl]\nmechanism = \"PLAIN\"\n", Some("TLS")),
        ] {
            let login = if tables.is_empty() { "" } else { login };
            let text = format!(
                "[plugins]\ndirectory = \"p\"\n[store]\nurl = \"sqlite://a.db\"\n[kafka]\nbrokers = \"b:9092\"\n{tables}{login}"
            );
            let config = projector_config::Config::parse("projector.toml", &text).expect(&text);
            let message = check_without_tls(&config.kafka).err().map(|problem| problem.message);
            let expected = missing.map(|what| format!("{what} to Kafka is not built into this program"));
            assert_eq!(message, expected, "{tables}");
        }
    }

    #[test]
    fn a_wrong_property_is_refused_with_the_reason() {
        let problem = check_property("fetch.wait.max", "10").expect_err("unknown");
        assert_eq!(problem.help.as_deref(), Some("did you mean `fetch.wait.max.ms`?"));
        let problem = check_property("fetch.wait.max.ms", "soon").expect_err("no number");
        assert!(problem.message.contains("fetch.wait.max.ms"), "{}", problem.message);
        check_property("linger.ms", "5").expect_err("of producers");
        check_property("fetch.wait.max.ms", "50").expect("sound");
    }
}
