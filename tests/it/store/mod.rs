//! What both stores promise: one set of tests, each run on a real Postgres and on a SQLite file.

mod home;
mod projection;
mod random;
mod rows;
mod scripted;

mod activation;
mod beside;
mod checkpoints;
mod commands;
mod connecting;
mod dead_letters;
mod diff;
mod drift;
mod foreign_objects;
mod generations;
mod given_up;
mod ids;
mod install;
mod lineage;
mod migrating;
mod one_writer;
mod parking;
mod plans;
mod readers;
mod reads;
mod refusals;
mod retention;
mod same_outcomes;
mod same_rows;
mod values;
mod waiting;

use projector_config as config;

/// Runs each of these functions as a test of its own on either store.
macro_rules! on_both_stores {
    ($($promise:ident),+ $(,)?) => {
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() -> anyhow::Result<()> {
                    super::$promise(crate::store::home::Home::postgres()?).await
                }
            )+
        }
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() -> anyhow::Result<()> {
                    super::$promise(crate::store::home::Home::sqlite()?).await
                }
            )+
        }
    };
}
use on_both_stores;

/// A store's settings as an operator writes them.
fn settings(url: &str) -> config::Store {
    toml::from_str(&format!("url = '{url}'")).expect("a url alone is enough")
}
