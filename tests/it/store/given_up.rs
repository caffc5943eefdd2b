//! A deployment that the database refuses again and again is refused itself, and leaves nothing behind.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use projector::deploy::component_cache::ComponentCache;
use projector::deploy::rollout::{Attempts, advance};
use projector::deploy::trust::TrustPolicy;
use projector_config::Config;
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::failure::FailureKind;
use projector_core::ownership::Signer;
use projector_store::deployments::{Proposal, Proposed};
use projector_store::{Component, Requester, Store};
use serde_json::{Value as Json, json};
use sqlx::Row;
use uuid::Uuid;

use super::home::{Home, Session};
use crate::harness::{describing, descriptor};

/// With a column and an index more.
fn extended() -> String {
    let mut declared: Json = serde_json::from_str(&descriptor("sound")).expect("JSON");
    declared["version"] = "2.0.0".into();
    let columns = declared["tables"][0]["columns"].as_array_mut().expect("a list");
    columns.push(json!({"name": "note", "type": "text", "nullable": true}));
    let indexes = declared["tables"][0]["indexes"].as_array_mut().expect("a list");
    indexes.push(json!({"columns": ["note"]}));
    declared.to_string()
}

struct Host {
    id: Uuid,
    store: Arc<dyn Store>,
    versions: Arc<ComponentCache>,
    attempts: Attempts,
}

impl Host {
    /// Asks for a component. Nothing is carried out yet.
    async fn propose(&self, descriptor: &str) -> Result<i64> {
        let bytes = describing(descriptor).component();
        let (plugin, _) = self.versions.load(Path::new("sound.wasm"), &bytes, None)?;
        let component =
            Component { digest: &plugin.digest, bytes: &bytes, contract: &plugin.contract, signature: None };
        let requester = Requester::new("a test".into(), None);
        let (action, origin, signer) = (DeploymentAction::Deploy, Origin::Command, &Signer::Nobody);
        match self.store.propose(&Proposal { component, action, origin, requester, signer }).await? {
            Proposed::Open(id) => Ok(id),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// Does what this host can do, until it fails or there is nothing left to do. Returns why it failed.
    async fn advance(&self) -> Result<Option<FailureKind>> {
        self.store.heartbeat(self.id, "a test", &[]).await?;
        while let Some(open) = self.store.open_deployments().await?.pop() {
            if let Err(error) = advance(&self.store, &self.versions, self.id, &open, &self.attempts).await {
                return Ok(Some(error.kind()));
            }
        }
        Ok(None)
    }

    async fn state_of(&self, deployment: i64) -> Result<(String, String)> {
        let history = self.store.history("sound", 100).await?;
        let found = history.into_iter().find(|deployed| deployed.id == deployment).context("not there")?;
        Ok((found.decision.state, found.decision.result.unwrap_or_default()))
    }
}

async fn columns(session: &mut Session) -> Result<Vec<String>> {
    let Session::Postgres(session) = session else { unreachable!("it is Postgres") };
    let names = "select column_name::text from information_schema.columns
                 where table_schema = 'sound_g1' and table_name = 'seen' order by ordinal_position";
    Ok(sqlx::query(names).fetch_all(session).await?.iter().map(|row| row.get(0)).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_refuses_again_and_again_is_refused_and_taken_back() -> Result<()> {
    let home = Home::postgres()?;
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("projector.toml");
    std::fs::write(
        &config,
        format!("kafka.brokers = \"127.0.0.1:1\"\nplugins.directory = \".\"\nstore.url = '{}'\n", home.url()),
    )?;
    let config = Arc::new(Config::load(&config).expect("sound"));
    let versions =
        ComponentCache::new(config, TrustPolicy::default(), env!("CARGO_BIN_EXE_projector").into());
    let host = Host {
        id: Uuid::new_v4(),
        store: home.open().await?,
        versions: Arc::new(versions),
        attempts: Attempts::default(),
    };
    let first = host.propose(&descriptor("sound")).await?;
    assert_eq!(host.advance().await?, None);
    assert_eq!(host.state_of(first).await?.0, "done");
    let mut session = home.session().await?;
    let before = columns(&mut session).await?;

    // As where an index would need more locks than the server has.
    home.by_hand(
        "create function refuse() returns event_trigger language plpgsql as
           $$ begin raise exception 'out of shared memory' using errcode = '53200'; end $$;
         create event trigger refuse on ddl_command_start when tag in ('CREATE INDEX') execute function refuse()",
        "",
    )
    .await?;
    let second = host.propose(&extended()).await?;
    let mut failed = 0;
    while let Some(kind) = host.advance().await? {
        assert_eq!(kind, FailureKind::Database);
        failed += 1;
        assert!(failed < 100, "it is tried for ever");
        assert_eq!(columns(&mut session).await?.len(), before.len() + 1, "the column was added before");
    }
    let (state, result) = host.state_of(second).await?;
    assert_eq!(state, "refused");
    assert!(failed >= 3 && result.contains("out of shared memory"), "{failed}: {result}");
    assert_eq!(columns(&mut session).await?, before, "nothing is left");

    home.by_hand("drop event trigger refuse", "").await?;
    let third = host.propose(&extended()).await?;
    assert_eq!(host.advance().await?, None);
    assert_eq!(host.state_of(third).await?.0, "done");
    assert_eq!(columns(&mut session).await?.len(), before.len() + 1);
    host.store.close().await;
    Ok(())
}
