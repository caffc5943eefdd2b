//! Carries a deployment out: activates a component in a generation that exists, or in a new one.
//!
//! Invariant: until the transaction commits, the component that was active before stays active, and readers see nothing
//! of the deployment. An attempt that ends in between can be repeated by any host.

use projector_core::deployment::DeploymentAction;
use projector_core::failpoint;
use projector_core::generation::{Generation, GenerationStatus, Role};
use projector_core::layout::{Layout, Offered, Step};
use projector_core::rollout_target::{RolloutTarget, rollout_target};
use projector_core::views::ViewSet;
use projector_model::names;

use super::Session;
use super::generation_rows::generations;
use super::generation_tables::{GenerationTables, LaidTables};
use super::removal::remove;
use super::view_sets::{complete_views, next_views, set_views};
use super::waiting_events::retry_waiting;
use crate::error::StoreError;
use crate::generations::Installed;

/// An open deployment, and what it takes to carry it out now.
pub(crate) struct Rollout {
    pub(crate) action: DeploymentAction,
    pub(crate) digest: String,
    pub(crate) generations: Vec<GenerationStatus>,
    pub(crate) target: RolloutTarget,
}

/// `None`: the deployment is not open any more. `lock`: empty, or the clause that locks the deployment's row.
pub(crate) async fn open_rollout<S: Session>(
    session: &mut S,
    deployment: i64,
    offered: Offered<'_>,
    lock: &str,
) -> Result<Option<Rollout>, StoreError> {
    let sql =
        format!("select action, digest from projector.deployment where id = $1 and state = 'open' {lock}");
    let open: Option<(String, String)> = session.row(&sql, &[deployment.into()]).await?;
    let Some((word, digest)) = open else { return Ok(None) };
    let action = DeploymentAction::from_word(&word)
        .ok_or_else(|| StoreError::Unusable(format!("a deployment to {word:?}: made by a newer host?")))?;
    let name = offered.contract.name();
    let had: Vec<(i32,)> = session
        .rows(
            "select generation from projector.deployment
             where projection = $1 and digest = $2 and state = 'done' and generation is not null",
            &[name.into(), digest.as_str().into()],
        )
        .await?;
    let generations = generations(session, name).await?;
    let had = |generation: &GenerationStatus| had.contains(&(generation.generation.number,));
    let target = rollout_target(action, &generations, offered, had);
    Ok(Some(Rollout { action, digest, generations, target }))
}

/// The generation in which a component was activated, the digest of the component before, and a text for the history.
type Activated = (Generation, Option<String>, Option<String>);

/// `None`: the deployment is not open any more, or the generations have changed since the additions were made.
pub(super) async fn carry_out<D: GenerationTables>(
    database: &D,
    turn: &mut D::Turn,
    deployment: i64,
    offered: Offered<'_>,
) -> Result<Option<Installed>, StoreError> {
    let name = offered.contract.name();
    let added_for = database.add_before(turn, deployment, offered).await?;
    let mut tx = database.decide(name).await?;
    let rollout = open_rollout(&mut *tx, deployment, offered, D::Connection::FOR_UPDATE).await?;
    let Some(rollout) = rollout else { return Ok(None) };
    // A promotion or a revert came in between: the next attempt makes other additions.
    if added_for.is_some_and(|target| target != rollout.target) {
        return Ok(None);
    }
    let role = rollout.target.role(&rollout.generations);
    let Some((generation, replaced, result)) = activate::<D>(&mut tx, &rollout, offered).await? else {
        return Ok(None);
    };
    tx.execute(
        "update projector.deployment set state = 'done', decided_at = now(), generation = $2, replaced = $3,
           verdict = $4 where id = $1",
        &[deployment.into(), generation.number.into(), replaced.as_deref().into(), result.as_deref().into()],
    )
    .await?;
    failpoint::reached(failpoint::BEFORE_ACTIVATION, name);
    D::commit(tx).await?;
    failpoint::reached(failpoint::AFTER_ACTIVATION, name);
    Ok(Some(Installed { generation, role, active: rollout.digest }))
}

async fn activate<D: GenerationTables>(
    tx: &mut D::Connection,
    rollout: &Rollout,
    offered: Offered<'_>,
) -> Result<Option<Activated>, StoreError> {
    let of_id = |id: i64| rollout.generations.iter().find(move |status| status.generation.id == id);
    let new = |role, backfilling| NewGeneration { offered, digest: &rollout.digest, role, backfilling };
    match &rollout.target {
        RolloutTarget::First => {
            let generation = create::<D>(tx, new(Role::Live, false)).await?;
            Ok(Some((generation, None, None)))
        }
        RolloutTarget::Anew { reasons, instead_of } => {
            if let Some(given_up) = instead_of.and_then(of_id) {
                remove::<D>(tx, given_up).await?;
            }
            let backfilling = rollout.action == DeploymentAction::Backfill;
            let generation = create::<D>(tx, new(Role::Building, backfilling)).await?;
            let result = format!("generation {}: {}", generation.number, reasons.join("; "));
            Ok(Some((generation, None, Some(result))))
        }
        RolloutTarget::InPlace { generation, steps } => {
            let status = of_id(*generation);
            let status = status.ok_or_else(|| StoreError::Unusable("no such generation".into()))?;
            extend::<D>(tx, status, steps, (rollout, offered)).await
        }
    }
}

/// Activates a component in a generation that exists. `None`: the generation was removed.
async fn extend<D: GenerationTables>(
    tx: &mut D::Connection,
    status: &GenerationStatus,
    steps: &[Step],
    (rollout, offered): (&Rollout, Offered<'_>),
) -> Result<Option<Activated>, StoreError> {
    let GenerationStatus { generation, layout, active, .. } = status;
    let extended = layout.extended(offered);
    for step in steps {
        D::add_within(tx, step, offered.contract, &generation.schema).await?;
    }
    let mut views = status.views.clone();
    if !steps.is_empty() && !views.is_empty() {
        let next = next_views(&rollout.generations, &generation.projection, &extended);
        let tables = LaidTables { layout: &extended, schema: &generation.schema };
        complete_views::<D>(tx, tables, &mut views, next, status.newest_views()).await?;
    }
    D::fence(tx, &[generation.id]).await?;
    let sql = format!(
        "update projector.generation set active_digest = $2, halted = null, halted_kind = null, impure = null,
           layout = {} where id = $1",
        D::Connection::document("$3")
    );
    let arguments = [generation.id.into(), rollout.digest.as_str().into(), layout_json(&extended).into()];
    if tx.execute(&sql, &arguments).await? == 0 {
        return Ok(None);
    }
    set_views(tx, generation.id, &views, &extended).await?;
    retry_waiting(tx, generation.id).await?;
    let added: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let result = (!added.is_empty()).then(|| added.join("; "));
    Ok(Some((generation.clone(), Some(active.clone()), result)))
}

struct NewGeneration<'a> {
    offered: Offered<'a>,
    digest: &'a str,
    role: Role,
    backfilling: bool,
}

/// Creates a generation with its tables. The first generation of a projection is shown to readers.
async fn create<D: GenerationTables>(
    tx: &mut D::Connection,
    new: NewGeneration<'_>,
) -> Result<Generation, StoreError> {
    let NewGeneration { offered, digest, role, backfilling } = new;
    let contract = offered.contract;
    let name = contract.name();
    let gone = || StoreError::Unusable(format!("the projection {name} has no row of its own"));
    let number: Option<(i32,)> = tx
        .row(
            "update projector.projection set generations = generations + 1 where name = $1 returning generations",
            &[name.into()],
        )
        .await?;
    let (number,) = number.ok_or_else(gone)?;
    let schema = names::generation_schema(name, number);
    let layout = Layout::of(offered);
    let sql = format!(
        "insert into projector.generation
           (id, projection, number, revision, table_schema, active_digest, role, layout, backfilling, created_at)
         values ({}, $1, $2, $3, $4, $5, $6, {}, $8, now()) returning id",
        D::Connection::NEXT_GENERATION_ID,
        D::Connection::document("$7")
    );
    let arguments = [
        name.into(),
        number.into(),
        (contract.descriptor.revision as i32).into(),
        schema.as_str().into(),
        digest.into(),
        role.as_str().into(),
        layout_json(&layout).into(),
        backfilling.into(),
    ];
    let id: Option<(i64,)> = tx.row(&sql, &arguments).await?;
    let (id,) = id.ok_or_else(|| StoreError::Unusable("a generation got no number".into()))?;
    D::create_tables(tx, contract, &schema).await?;
    if role == Role::Live {
        let views = ViewSet::of(names::views_schema(name, 1), 1, &layout);
        let tables = LaidTables { layout: &layout, schema: &schema };
        D::create_views(tx, &views, tables, None).await?;
        set_views(tx, id, &[views], &layout).await?;
    }
    Ok(Generation { id, projection: name.to_owned(), number, schema })
}

fn layout_json(layout: &Layout) -> String {
    serde_json::to_string(layout).expect("a layout is plain data")
}
