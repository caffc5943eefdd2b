//! A projection in a store, written to as the pipeline writes, without Kafka and plugins.

use std::sync::Arc;

use anyhow::{Context, Result};
use projector_core::checkpoint::Beginning;
use projector_core::counters::OutcomeCounts;
use projector_core::deployment::{DeploymentAction, Origin};
use projector_core::event::{Partition, Position};
use projector_core::generation::{GenerationStatus, Role};
use projector_core::layout::Offered;
use projector_core::ownership::Signer;
use projector_core::topics::TopicMapping;
use projector_model::interpret::Row;
use projector_model::{Change, Contract, Descriptor, LookupCall, Value};
use projector_store::deployments::{Proposal, Proposed};
use projector_store::{
    Advance, Component, Installed, PartitionState, Projection as Overview, Requester, Store, StoreError,
    Transaction, WriteTarget, Writes,
};
use serde_json::{Value as Json, json};

pub(super) const BYTES: &[u8] = b"\0asm: a component";

/// A projection that is installed, and has begun its one partition, `t/0`.
pub(super) struct Projection {
    pub(super) store: Arc<dyn Store>,
    pub(super) deployment: WriteTarget,
}

pub(super) fn contract(descriptor: &Json) -> Contract {
    match Descriptor::from_json(&descriptor.to_string()).and_then(Descriptor::check) {
        Ok(contract) => contract,
        Err(problems) => panic!("{problems}\n{descriptor:#}"),
    }
}

/// A descriptor around these tables, statements and lookups.
pub(super) fn descriptor(tables: Json, statements: Json, lookups: Json) -> Json {
    let names = |list: &Json| -> Vec<Json> {
        list.as_array().into_iter().flatten().map(|declared| declared["name"].clone()).collect()
    };
    json!({
        "name": "some-orders", "version": "1.0",
        "topics": [{"name": "t", "statements": names(&statements), "lookups": names(&lookups)}],
        "tables": tables, "statements": statements, "lookups": lookups,
    })
}

/// One table of numbers, written by key alone.
pub(super) fn numbers() -> Json {
    descriptor(
        json!([{"name": "number", "key": ["id"], "columns": [
            {"name": "id", "type": "int64"}, {"name": "n", "type": "int64", "nullable": true}]}]),
        json!([
            {"name": "put", "table": "number", "kind": "upsert", "set": [{"column": "n"}]},
            {"name": "add", "table": "number", "kind": "upsert", "set": [{"column": "n", "operation": "add"}]},
        ]),
        json!([]),
    )
}

pub(super) const PUT: u16 = 0;
pub(super) const ADD: u16 = 1;

pub(super) fn call(statement: u16, arguments: impl IntoIterator<Item = Value>) -> Change {
    Change { statement, arguments: arguments.into_iter().collect() }
}

/// A call with numbers.
pub(super) fn numeric(statement: u16, arguments: &[i64]) -> Change {
    call(statement, arguments.iter().copied().map(Value::Int64))
}

pub(super) fn text(text: &str) -> Value {
    Value::Text(text.into())
}

pub(super) fn partition() -> Partition {
    Partition::new("t", 0)
}

pub(super) fn proposal<'a>(digest: &'a str, contract: &'a Contract, origin: Origin) -> Proposal<'a> {
    Proposal {
        component: Component { digest, bytes: BYTES, contract, signature: None },
        action: DeploymentAction::Deploy,
        origin,
        requester: Requester::new("a test".into(), None),
        signer: &Signer::Nobody,
    }
}

/// Every topic has the same name in both worlds.
pub(super) fn topics(contract: &Contract) -> TopicMapping {
    TopicMapping::same_names(contract.topics.iter().map(|topic| topic.name.as_str()))
}

/// Offers a component as the plugin directory does, with no host that is asked.
pub(super) async fn offer(
    store: &dyn Store,
    digest: &str,
    contract: &Contract,
) -> Result<Installed, StoreError> {
    let activated = match store.propose(&proposal(digest, contract, Origin::Directory)).await? {
        Proposed::Open(deployment) => {
            store.activate(deployment, Offered { contract, topics: &topics(contract) }).await?
        }
        Proposed::Active | Proposed::Had => None,
        Proposed::Foreign(owner) => panic!("it belongs to {owner}"),
    };
    match activated {
        Some(installed) => Ok(installed),
        // Somebody else carries it out, or it is there.
        None => loop {
            match live(store, contract.name()).await? {
                Some(live) => {
                    return Ok(Installed {
                        generation: live.generation,
                        role: live.role,
                        active: live.active,
                    });
                }
                None => tokio::task::yield_now().await,
            }
        },
    }
}

async fn live(store: &dyn Store, projection: &str) -> Result<Option<GenerationStatus>, StoreError> {
    let generations = store.generations(projection).await?;
    Ok(generations.into_iter().find(|status| status.role == Role::Live))
}

impl Projection {
    pub(super) async fn install(store: Arc<dyn Store>, contract: Contract) -> Result<Self> {
        let digest = format!("digest of {}", contract.name());
        let installed = offer(&*store, &digest, &contract).await?;
        let topics = topics(&contract);
        let deployment = WriteTarget {
            generation: installed.generation,
            digest: digest.into(),
            contract: Arc::new(contract),
            topics,
        };
        store.begin_partition(&deployment.generation, &partition(), &Beginning::at(0)).await?;
        Ok(Self { store, deployment })
    }

    pub(super) async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.store.begin(&self.deployment).await
    }

    /// Where `t/0` is to be read on.
    pub(super) async fn offset(&self) -> Result<i64, StoreError> {
        let checkpoints = self.store.checkpoints(&self.deployment.generation, &[partition()]).await?;
        Ok(checkpoints[0].as_ref().map_or(0, |checkpoint| checkpoint.next_offset))
    }

    /// One transaction with the changes of these events, as they are after validation.
    pub(super) async fn write(&self, events: &[Vec<Change>]) -> Result<(), StoreError> {
        let mut events = events.to_vec();
        for change in events.iter_mut().flatten() {
            self.deployment.contract.fit(change).expect("validated before");
        }
        let first = self.offset().await?;
        let position = |at: i64| Position { partition: partition(), offset: first + at };
        let positions: Vec<Position> = (0..events.len() as i64).map(position).collect();
        let writes = Writes {
            advances: vec![advance(first, events.len() as i64)],
            positions: positions.iter().collect(),
            changes: events.iter().map(Vec::as_slice).enumerate().collect(),
            ..Writes::default()
        };
        self.commit(&writes).await
    }

    /// One transaction with all of this.
    pub(super) async fn commit(&self, writes: &Writes<'_>) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        transaction.write(writes).await?;
        transaction.commit().await
    }

    /// What calls of lookups find, tombstones aside, as the values that the rows have.
    pub(super) async fn read(&self, calls: &[LookupCall]) -> Result<Vec<Vec<Vec<Value>>>, StoreError> {
        let mut calls = calls.to_vec();
        for call in &mut calls {
            self.deployment.contract.fit_lookup(call).expect("validated before");
        }
        let found = self.begin().await?.read(&calls, usize::MAX).await?;
        let values = |rows: Option<Vec<Row>>| {
            let there = rows.into_iter().flatten().filter(|row| !row.tombstone);
            there.map(|row| row.values).collect()
        };
        Ok(found.into_iter().map(values).collect())
    }

    pub(super) async fn overview(&self) -> Result<Overview> {
        let name = &self.deployment.generation.projection;
        let all = self.store.overview().await?;
        all.into_iter().find(|projection| projection.name == *name).context("the projection is not shown")
    }

    pub(super) async fn partition_state(&self, partition: &Partition) -> Result<PartitionState> {
        let found = self.overview().await?.partitions.into_iter();
        let mut found =
            found.filter(|state| state.topic == *partition.topic && state.partition == partition.number);
        found.next().context("the partition is not shown")
    }
}

/// `t/0` moves over this many applied events.
pub(super) fn advance(expected: i64, events: i64) -> Advance {
    Advance {
        partition: partition(),
        expected,
        next: expected + events,
        counts: OutcomeCounts { applied: events, ..OutcomeCounts::default() },
    }
}
