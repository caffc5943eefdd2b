//! The first log lines of a host: its configuration, the plugins that it has found, and whether the brokers and the
//! databases respond.
//!
//! Without these lines, a host with wrong brokers and an empty plugin directory would log nothing at all.

use std::path::Path;

use projector_config::{self as config, Config};
use projector_core::failure::FailureKind;
use projector_kafka::KafkaAdmin;
use projector_store::Store;
use projector_store::schema::Schema;
use tokio_util::sync::CancellationToken;

use crate::retry::{Backoff, Retries};

/// Logs the brokers, databases and plugin directory of the configuration, before any of them is used.
pub(super) fn starting(config: &Config, host: &str) {
    let databases: Vec<String> = config.all_stores().map(|store| address(&store.url)).collect();
    let directory = config.plugins.directory.display().to_string();
    let plugins = plugins_in(&config.plugins.directory);
    tracing::info!(
        host,
        version = env!("CARGO_PKG_VERSION"),
        brokers = &*config.kafka.brokers,
        databases = databases.join(", "),
        plugin_directory = directory,
        plugins = plugins.as_ref().map_or(0, Vec::len),
        found = plugins.as_ref().map_or(String::new(), |plugins| plugins.join(", ")),
        "host starts"
    );
    match plugins {
        Err(error) => tracing::warn!(
            plugin_directory = directory, %error,
            "the plugin directory cannot be read, so no plugin in it is deployed; the projections in the databases run"
        ),
        Ok(plugins) if plugins.is_empty() => tracing::warn!(
            plugin_directory = directory,
            "the plugin directory has no .wasm file, so no new plugin is deployed; the projections in the databases run"
        ),
        Ok(_) => {}
    }
}

/// Asks the brokers until they respond, and logs the id of their cluster.
pub(super) async fn brokers(config: &Config, log: &KafkaAdmin, retries: &Retries, stop: &CancellationToken) {
    let mut backoff = Backoff::new("", retries);
    while !stop.is_cancelled() {
        let asked = tokio::select! {
            asked = log.cluster_id() => asked,
            () = stop.cancelled() => return,
        };
        match asked {
            Ok(cluster) => {
                backoff.succeeded();
                let cluster = cluster.unwrap_or_else(|| "unknown".to_owned());
                tracing::info!(brokers = &*config.kafka.brokers, cluster, "connected to Kafka");
                return;
            }
            Err(error) => {
                backoff.failed(error.kind(), &error);
                backoff.wait(stop).await;
            }
        }
    }
}

/// Logs which database responded, and which hosts share it.
pub(super) async fn database(settings: &config::Store, store: &dyn Store) {
    let database = address(&settings.url);
    match store.live_hosts().await {
        Ok(hosts) => {
            let names: Vec<&str> = hosts.iter().map(|host| &*host.name).collect();
            let live_hosts = names.join(", ");
            let Schema { version, known, .. } = store.schema();
            tracing::info!(database, live_hosts, version, known, "connected to the database");
            let older = hosts.iter().filter(|host| host.knows < *known).map(|host| &*host.name);
            let older = older.collect::<Vec<_>>().join(", ");
            if !older.is_empty() {
                tracing::info!(database, older, "hosts of an older version run beside this one");
            }
            if version.is_some_and(|version| version > *known) {
                tracing::info!(
                    database,
                    version,
                    known,
                    "hosts of a newer version have run on this database; this host works with it all the same"
                );
            }
        }
        Err(error) => {
            let advice = FailureKind::Database.advice();
            tracing::warn!(database, %error, advice, "connected to the database, but could not read which hosts use it");
        }
    }
}

/// The names of the `.wasm` files of a directory, sorted.
fn plugins_in(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(directory)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".wasm"))
        .collect();
    names.sort();
    Ok(names)
}

/// A database's URL without its user, its password and its parameters.
fn address(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (place, parameters) = rest.split_once(['?', '#']).unwrap_or((rest, ""));
    let place = match place.rsplit_once('@') {
        Some((_, place)) => place,
        // The password contains an unescaped question mark: show no part of the URL.
        None if parameters.contains('@') => "…",
        None => place,
    };
    format!("{scheme}://{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_no_secret() {
        let shown = address("postgres://me:s3cr@t@db.example:5432/read?password=s3cret&sslmode=require");
        assert_eq!(shown, "postgres://db.example:5432/read");
        assert_eq!(address("postgres://me:s3?cr@t@db.example/read"), "postgres://…");
        assert_eq!(address("sqlite:///var/lib/read.db?mode=rwc"), "sqlite:///var/lib/read.db");
    }
}
