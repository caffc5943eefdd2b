-- The host's own tables. Whatever says what happened to an event lives here, in the database that
-- holds its rows, and moves in the transactions that move them.

create schema if not exists projector;

-- One row: this store's identity. Consumer groups carry it, so that hosts with different stores
-- never share one.
create table projector.store (
    only_row   boolean primary key default true check (only_row),
    id         uuid not null,
    created_at timestamptz not null default now()
);
insert into projector.store (id) values (gen_random_uuid());

-- Every component that was ever activated, as it was compiled.
create table projector.component (
    digest     text primary key,
    version    text not null,
    bytes      bytea not null,
    descriptor jsonb not null,
    stored_at  timestamptz not null default now()
);

-- One build of a projection's tables. A writer share-locks its row and checks the digest.
create table projector.generation (
    id            bigint generated always as identity primary key,
    projection    text not null,
    number        integer not null,
    revision      integer not null,
    table_schema  text not null unique,
    active_digest text not null references projector.component,
    halted        text,
    created_at    timestamptz not null default now(),
    unique (projection, number)
);

-- Every activation there was, oldest first.
create table projector.activation (
    id            bigint generated always as identity primary key,
    generation_id bigint not null references projector.generation on delete cascade,
    digest        text not null references projector.component,
    activated_at  timestamptz not null default now()
);
create index activation_by_generation on projector.activation (generation_id, id);

-- The next offset to read, and what became of the events before it:
-- read = applied + ignored + parked + dead + skipped.
create table projector.checkpoint (
    generation_id bigint not null references projector.generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    next_offset   bigint not null,
    first_offset  bigint not null,
    topic_id      text,
    cluster_id    text,
    read          bigint not null default 0,
    applied       bigint not null default 0,
    ignored       bigint not null default 0,
    parked        bigint not null default 0,
    dead          bigint not null default 0,
    skipped       bigint not null default 0,
    paused        text,
    updated_at    timestamptz not null default now(),
    primary key (generation_id, topic, partition),
    check (read = applied + ignored + parked + dead + skipped)
);

-- Ignored and dead events by their code.
create table projector.outcome (
    generation_id bigint not null references projector.generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    outcome       text not null check (outcome in ('ignored', 'dead')),
    code          text not null,
    events        bigint not null,
    primary key (generation_id, topic, partition, outcome, code)
);

-- Rows that each statement touched: their sum over the partitions. Each batch counts on one of its
-- own partitions, so that writers never wait for each other here.
create table projector.effect (
    generation_id bigint not null references projector.generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    statement     text not null,
    changes       bigint not null,
    rows          bigint not null,
    primary key (generation_id, topic, partition, statement)
);

create table projector.dead_letter (
    id            bigint generated always as identity primary key,
    generation_id bigint not null references projector.generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    "offset"      bigint not null,
    recorded_at   timestamptz,
    key           bytea,
    payload       bytea,
    headers       jsonb not null,
    digest        text not null,
    kind          text not null,
    code          text not null,
    detail        text not null,
    died_at       timestamptz not null default now(),
    unique (generation_id, topic, partition, "offset")
);
