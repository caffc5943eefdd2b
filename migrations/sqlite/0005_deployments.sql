-- What is decided about a projection as a whole.
create table projector_projection (
    name        text primary key,
    -- Who may deploy it: its first signer, or `lock`. Null: anybody.
    owner       text,
    -- How many generations there were: no number is given twice.
    generations integer not null default 0,
    -- Why no host runs it.
    stopped     text
) strict;
insert into projector_projection (name, generations)
select projection, max(number) from projector_generation group by projection;

-- `live`: readers see it. `building`: it is built beside that one. `warm`: readers saw it before, and it is
-- kept current, to be switched back to.
alter table projector_generation add column role text not null default 'live' check (role in ('building', 'live', 'warm'));
create unique index projector_generation_live on projector_generation (projection) where role = 'live';
create unique index projector_generation_building on projector_generation (projection) where role = 'building';
-- Its tables as they are; null: as its active component declares them.
alter table projector_generation add column layout text;
-- The prefix of the views that show it to readers.
alter table projector_generation add column readers text;
update projector_generation set readers = replace(projection, '-', '_');
create unique index projector_generation_readers on projector_generation (readers);
-- Until then no batch goes beyond `hold_at`, the next offset of each partition; null: none is written.
alter table projector_generation add column hold_until integer;
alter table projector_generation add column hold_at text;
-- Whoever holds it.
alter table projector_generation add column hold_by blob;

alter table projector_component add column signature text;

-- Everything that was ever to become of a projection, oldest first. It outlives the projection.
create table projector_deployment (
    id         integer primary key autoincrement,
    projection text not null references projector_projection,
    action     text not null check (action in ('deploy', 'rollback', 'rebuild', 'backfill', 'revert', 'promote', 'stop', 'start', 'retire', 'drop')),
    digest     text references projector_component,
    source     text not null check (source in ('directory', 'command', 'host')),
    asked_by   text not null,
    reason     text,
    asked_at   integer not null,
    state      text not null check (state in ('open', 'done', 'refused', 'withdrawn')),
    -- What came of it, in words.
    verdict    text,
    decided_at integer,
    -- The number of the generation that it went to, and what was active there before.
    generation integer,
    replaced   text references projector_component,
    -- When it had stood its trial.
    proven_at  integer
) strict;
create index projector_deployment_by_projection on projector_deployment (projection, id);
create unique index projector_deployment_open on projector_deployment (projection) where state = 'open';

insert into projector_deployment
  (projection, action, digest, source, asked_by, asked_at, state, decided_at, generation, replaced, proven_at)
select g.projection, 'deploy', a.digest, 'directory', 'the host', a.activated_at, 'done', a.activated_at, g.number,
  lag(a.digest) over (partition by a.generation_id order by a.id), a.activated_at
from projector_activation a join projector_generation g on g.id = a.generation_id order by a.id;
drop table projector_activation;

-- Hosts that are there: those seen within seconds.
create table projector_host (
    id      blob primary key,
    name    text not null,
    seen_at integer not null
) strict;

-- Which host can run what is to be deployed; `refusal`: why it cannot.
create table projector_readiness (
    deployment_id integer not null references projector_deployment on delete cascade,
    host_id       blob not null references projector_host on delete cascade,
    refusal       text,
    primary key (deployment_id, host_id)
) strict;

-- It is fed from a file before the log takes over: no host runs it.
alter table projector_generation add column backfilling integer not null default 0;
