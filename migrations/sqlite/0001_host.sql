-- The host's own tables. Whatever says what happened to an event lives here, in the database that
-- holds its rows, and moves in the transactions that move them. Times are microseconds since 1970.

create table projector_store (
    only_row   integer primary key default 1 check (only_row = 1),
    id         text not null,
    created_at integer not null
) strict;

create table projector_component (
    digest     text primary key,
    version    text not null,
    bytes      blob not null,
    descriptor text not null,
    stored_at  integer not null
) strict;

create table projector_generation (
    id            integer primary key,
    projection    text not null,
    number        integer not null,
    revision      integer not null,
    table_schema  text not null unique,
    active_digest text not null references projector_component,
    halted        text,
    created_at    integer not null,
    unique (projection, number)
) strict;

create table projector_activation (
    id            integer primary key,
    generation_id integer not null references projector_generation on delete cascade,
    digest        text not null references projector_component,
    activated_at  integer not null
) strict;

create table projector_checkpoint (
    generation_id integer not null references projector_generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    next_offset   integer not null,
    first_offset  integer not null,
    topic_id      text,
    cluster_id    text,
    read          integer not null default 0,
    applied       integer not null default 0,
    ignored       integer not null default 0,
    parked        integer not null default 0,
    dead          integer not null default 0,
    skipped       integer not null default 0,
    paused        text,
    updated_at    integer not null,
    primary key (generation_id, topic, partition),
    check (read = applied + ignored + parked + dead + skipped)
) strict;

create table projector_outcome (
    generation_id integer not null references projector_generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    outcome       text not null check (outcome in ('ignored', 'dead')),
    code          text not null,
    events        integer not null,
    primary key (generation_id, topic, partition, outcome, code)
) strict;

create table projector_effect (
    generation_id integer not null references projector_generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    statement     text not null,
    changes       integer not null,
    rows          integer not null,
    primary key (generation_id, topic, partition, statement)
) strict;

create table projector_dead_letter (
    id            integer primary key,
    generation_id integer not null references projector_generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    "offset"      integer not null,
    recorded_at   integer,
    key           blob,
    payload       blob,
    headers       text not null,
    digest        text not null,
    kind          text not null,
    code          text not null,
    detail        text not null,
    died_at       integer not null,
    unique (generation_id, topic, partition, "offset")
) strict;
