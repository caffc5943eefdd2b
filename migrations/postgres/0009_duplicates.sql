-- Where the first event of an id stands. Null in ids that an older host remembered.
-- `source` is the topic of its position, where that is not the id's own: a file that was fed.
alter table projector.event_id
    add column source text,
    add column partition integer,
    add column "offset" bigint;

-- The last events that were ignored as duplicates, for operators: a thousand of each generation.
create table projector.duplicate (
    id              bigint generated always as identity primary key,
    generation_id   bigint not null references projector.generation on delete cascade,
    topic           text not null,
    partition       integer not null,
    "offset"        bigint not null,
    -- The position of the first event of its id, where that is known.
    first_topic     text,
    first_partition integer,
    first_offset    bigint,
    ignored_at      timestamptz not null default now()
);
create index duplicate_by_generation on projector.duplicate (generation_id, id);

-- Events without an id, of topics that declare where their events carry one. They are in the counters of
-- their checkpoint as well, by what became of them.
create table projector.without_id (
    generation_id bigint not null references projector.generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    events        bigint not null,
    primary key (generation_id, topic, partition)
);
