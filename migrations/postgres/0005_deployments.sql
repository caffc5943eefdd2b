-- What is decided about a projection as a whole.
create table projector.projection (
    name        text primary key,
    -- Who may deploy it: its first signer, or `lock`. Null: anybody.
    owner       text,
    -- How many generations there were: no number is given twice.
    generations integer not null default 0,
    -- Why no host runs it.
    stopped     text
);
insert into projector.projection (name, generations)
select projection, max(number) from projector.generation group by projection;

-- `live`: readers see it. `building`: it is built beside that one. `warm`: readers saw it before, and it is
-- kept current, to be switched back to.
alter table projector.generation add column role text not null default 'live' check (role in ('building', 'live', 'warm'));
create unique index generation_live on projector.generation (projection) where role = 'live';
create unique index generation_building on projector.generation (projection) where role = 'building';
-- Its tables as they are; null: as its active component declares them.
alter table projector.generation add column layout jsonb;
-- The schema of the views that show it to readers.
alter table projector.generation add column readers text unique;
update projector.generation set readers = replace(projection, '-', '_');
-- Until then no batch goes beyond `hold_at`, the next offset of each partition; null: none is written.
alter table projector.generation add column hold_until timestamptz;
alter table projector.generation add column hold_at jsonb;
-- Whoever holds it.
alter table projector.generation add column hold_by uuid;

alter table projector.component add column signature text;

-- Everything that was ever to become of a projection, oldest first. It outlives the projection.
create table projector.deployment (
    id         bigint generated always as identity primary key,
    projection text not null references projector.projection,
    action     text not null check (action in ('deploy', 'rollback', 'rebuild', 'backfill', 'revert', 'promote', 'stop', 'start', 'retire', 'drop')),
    digest     text references projector.component,
    source     text not null check (source in ('directory', 'command', 'host')),
    asked_by   text not null,
    reason     text,
    asked_at   timestamptz not null default now(),
    state      text not null check (state in ('open', 'done', 'refused', 'withdrawn')),
    -- What came of it, in words.
    verdict    text,
    decided_at timestamptz,
    -- The number of the generation that it went to, and what was active there before.
    generation integer,
    replaced   text references projector.component,
    -- When it had stood its trial.
    proven_at  timestamptz
);
create index deployment_by_projection on projector.deployment (projection, id);
create unique index deployment_open on projector.deployment (projection) where state = 'open';

insert into projector.deployment
  (projection, action, digest, source, asked_by, asked_at, state, decided_at, generation, replaced, proven_at)
select g.projection, 'deploy', a.digest, 'directory', 'the host', a.activated_at, 'done', a.activated_at, g.number,
  lag(a.digest) over (partition by a.generation_id order by a.id), a.activated_at
from projector.activation a join projector.generation g on g.id = a.generation_id order by a.id;
drop table projector.activation;

-- Hosts that are there: those seen within seconds.
create table projector.host (
    id      uuid primary key,
    name    text not null,
    seen_at timestamptz not null default now()
);

-- Which host can run what is to be deployed; `refusal`: why it cannot.
create table projector.readiness (
    deployment_id bigint not null references projector.deployment on delete cascade,
    host_id       uuid not null references projector.host on delete cascade,
    refusal       text,
    primary key (deployment_id, host_id)
);

-- It is fed from a file before the log takes over: no host runs it.
alter table projector.generation add column backfilling boolean not null default false;
