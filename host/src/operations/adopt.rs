//! Decides which consumer groups a copied or moved database uses.
//!
//! The plan shows what each choice would do. Nothing is changed until a choice is made.

use std::collections::BTreeSet;
use std::sync::Arc;

use projector_config::{self as config, Config};
use projector_core::event::Partition;
use projector_core::generation::Role;
use projector_kafka::{GroupMember, KafkaAdmin};
use projector_model::names;
use projector_store::identity::{Adoption, DatabaseIdentity};
use projector_store::{self as store, Requester, Store, identity};
use serde::Serialize;
use uuid::Uuid;

use super::OperationError;

/// Which consumer groups a database uses from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// New ones: the database is a copy that runs beside its original.
    New,
    /// The ones of before: the original database never runs again.
    Keep,
}

/// What adopting a database does.
#[derive(Debug, Serialize)]
pub struct AdoptPlan {
    /// The database's address, without role and password.
    pub store: String,
    /// The store's id.
    pub id: String,
    /// Why no host uses the database; absent if it is the recorded one.
    pub copied: Option<String>,
    pub recorded: Option<DatabaseIdentity>,
    pub found: DatabaseIdentity,
    /// Names of the live hosts of this database.
    pub live_hosts: Vec<String>,
    pub groups: Vec<GroupState>,
    pub new_groups: Choice,
    pub keep_groups: Choice,
    /// Absent until a choice is carried out.
    pub done: Option<Done>,
}

/// The consumer group of a generation.
#[derive(Debug, Serialize)]
pub struct GroupState {
    pub projection: String,
    pub generation: i32,
    pub role: Role,
    pub group: String,
    /// The members of the group now; absent if they are unknown.
    pub members: Option<Vec<Member>>,
    /// Why the members are unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// The ids of the Kafka clusters to which the generation's checkpoints belong.
    pub clusters: BTreeSet<String>,
}

#[derive(Debug, Serialize)]
pub struct Member {
    pub client: String,
    pub host: String,
    pub partitions: usize,
}

/// What a choice would do, and the problems for which it is refused.
#[derive(Debug, Serialize)]
pub struct Choice {
    pub does: Vec<String>,
    pub problems: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct Done {
    /// The store's id from now on.
    pub id: String,
}

/// A plan, and the open store to carry it out.
pub struct Planned {
    pub plan: AdoptPlan,
    store: Arc<dyn Store>,
}

impl AdoptPlan {
    pub fn choice(&self, groups: Groups) -> &Choice {
        match groups {
            Groups::New => &self.new_groups,
            Groups::Keep => &self.keep_groups,
        }
    }
}

impl Planned {
    /// Carries a choice out, unless it has problems.
    pub async fn carry_out(
        mut self,
        groups: Groups,
        requester: &Requester,
    ) -> Result<AdoptPlan, OperationError> {
        let done = async {
            if let Some(problem) = self.plan.choice(groups).problems.first() {
                return Err(OperationError::Failed(format!("the database is not adopted: {problem}")));
            }
            let from = self.store.id();
            let to = match groups {
                Groups::New => Uuid::new_v4(),
                Groups::Keep => from,
            };
            let adoption = Adoption { from, to, identity: &self.plan.found, requester };
            self.store.adopt(&adoption).await?;
            Ok(Done { id: to.to_string() })
        };
        let done = done.await;
        self.store.close().await;
        self.plan.done = Some(done?);
        Ok(self.plan)
    }

    /// Changes nothing.
    pub async fn leave(self) -> AdoptPlan {
        self.store.close().await;
        self.plan
    }
}

/// Plans what each choice would do. `name`: the store of `[stores]`. `None`: the default store.
pub async fn plan(config: &Config, name: Option<&str>) -> Result<Planned, OperationError> {
    let settings = match name {
        None => &config.store,
        Some(name) => config.stores.get(name).ok_or_else(|| OperationError::Usage {
            message: format!("the configuration has no store called {name:?}"),
            help: "[stores] in the configuration names the stores; without --store, the command uses [store]"
                .into(),
        })?,
    };
    let store = store::open_to_operate(settings).await?;
    match plan_in(config, settings, &*store).await {
        Ok(plan) => Ok(Planned { plan, store }),
        Err(error) => {
            store.close().await;
            Err(error)
        }
    }
}

async fn plan_in(
    config: &Config,
    settings: &config::Store,
    store: &dyn Store,
) -> Result<AdoptPlan, OperationError> {
    let log = KafkaAdmin::open(&config.kafka)?;
    let cluster = log.cluster_id().await.ok().flatten();
    let (found, recorded) = (store.found_identity().await?, identity::recorded(store).await?);
    let copied = found.is_a_copy(recorded.as_ref());
    let live_hosts: Vec<String> = store.live_hosts().await?.into_iter().map(|host| host.name).collect();
    let groups = groups(config, store, &log).await?;
    let new_groups = Choice { does: new_groups(&groups, cluster.as_deref()), problems: in_use(&live_hosts) };
    let mut problems = in_use(&live_hosts);
    if copied.is_none() {
        problems.push("the store was created in this database, and has its groups already".into());
    }
    problems.extend(groups.iter().filter_map(not_empty));
    let keep_groups = Choice { does: keep_groups(), problems };
    let (store, id) = (settings.shown(), store.id().to_string());
    Ok(AdoptPlan {
        store,
        id,
        copied,
        recorded,
        found,
        live_hosts,
        groups,
        new_groups,
        keep_groups,
        done: None,
    })
}

async fn groups(
    config: &Config,
    store: &dyn Store,
    log: &KafkaAdmin,
) -> Result<Vec<GroupState>, OperationError> {
    let mut groups = Vec::new();
    let mut unanswered: Option<String> = None;
    for projection in store.overview().await? {
        let (name, number) = (projection.name, projection.generation);
        let group = names::consumer_group(&config.kafka.group_prefix, &name, number, store.id());
        // If the brokers did not respond once, do not wait for another timeout.
        let members = match &unanswered {
            Some(reason) => Err(reason.clone()),
            None => log.group_members(&group).await.map_err(|error| error.to_string()),
        };
        unanswered = members.as_ref().err().cloned();
        let (members, unknown) = match members {
            Ok(members) => (Some(members.into_iter().map(member).collect()), None),
            Err(reason) => (None, Some(reason)),
        };
        let partitions: Vec<Partition> = projection
            .partitions
            .iter()
            .map(|state| Partition::new(state.topic.as_str(), state.partition))
            .collect();
        let mut clusters = BTreeSet::new();
        let statuses = store.generations(&name).await?;
        if let Some(status) = statuses.iter().find(|status| status.generation.number == number) {
            let checkpoints = store.checkpoints(&status.generation, &partitions).await?;
            let ids =
                checkpoints.into_iter().flatten().filter_map(|checkpoint| checkpoint.identity.cluster_id);
            clusters.extend(ids.filter(|id| id != projector_core::checkpoint::FILE));
        }
        let role = projection.role;
        groups.push(GroupState {
            projection: name,
            generation: number,
            role,
            group,
            members,
            unknown,
            clusters,
        });
    }
    Ok(groups)
}

fn member(GroupMember { client, host, partitions, .. }: GroupMember) -> Member {
    Member { client, host: host.trim_start_matches('/').to_owned(), partitions }
}

fn in_use(live: &[String]) -> Vec<String> {
    match live {
        [] => Vec::new(),
        hosts => vec![format!(
            "live hosts use this database, and stay in the consumer groups that they have joined: stop {} first",
            hosts.join(", ")
        )],
    }
}

fn not_empty(group: &GroupState) -> Option<String> {
    match (&group.members, &group.unknown) {
        (Some(members), _) if members.is_empty() => None,
        (Some(members), _) => {
            let members = members.iter().map(|member| format!("{} at {}", member.client, member.host));
            Some(format!(
                "the consumer group {} has members: {}. Hosts of the original database still run: stop them for good, or choose --new-groups",
                group.group,
                members.collect::<Vec<_>>().join(", ")
            ))
        }
        (None, unknown) => Some(format!(
            "it is unknown whether the consumer group {} has members: {}",
            group.group,
            unknown.as_deref().unwrap_or("the brokers do not say")
        )),
    }
}

fn new_groups(groups: &[GroupState], cluster: Option<&str>) -> Vec<String> {
    let mut does = vec![
        "the store gets a new id, so its hosts join consumer groups of their own".to_owned(),
        "rows, checkpoints, dead letters and history stay: hosts continue at the checkpoints".to_owned(),
        "the original database does not change: it keeps its id and its groups, and its hosts continue"
            .to_owned(),
    ];
    if let Some(cluster) = cluster {
        let elsewhere = groups.iter().filter(|group| group.clusters.iter().any(|id| id != cluster));
        does.extend(elsewhere.map(|group| {
            format!(
                "the checkpoints of {}, generation {}, belong to another Kafka cluster than `kafka.brokers` ({cluster}): hosts read none of its partitions until you run `projector move-checkpoints` or `projector rebuild`",
                group.projection, group.generation
            )
        }));
    }
    does
}

fn keep_groups() -> Vec<String> {
    vec![
        "the store keeps its id and its consumer groups, and this database is recorded as its database".to_owned(),
        "rows, checkpoints, dead letters and history stay: hosts continue at the checkpoints, so they also read the events that the original read after the copy was made".to_owned(),
        "the original database must not be used again: if its hosts start, they join no group that has members of this database".to_owned(),
    ]
}
