-- Where the first event of an id stands. Null in ids that an older host remembered.
-- `source` is the topic of its position, where that is not the id's own: a file that was fed.
alter table projector_event_id add column source text;
alter table projector_event_id add column partition integer;
alter table projector_event_id add column "offset" integer;

-- The last events that were ignored as duplicates, for operators: a thousand of each generation.
-- `ignored_at` is in microseconds since 1970.
create table projector_duplicate (
    id              integer primary key autoincrement,
    generation_id   integer not null references projector_generation on delete cascade,
    topic           text not null,
    partition       integer not null,
    "offset"        integer not null,
    -- The position of the first event of its id, where that is known.
    first_topic     text,
    first_partition integer,
    first_offset    integer,
    ignored_at      integer not null
);
create index projector_duplicate_by_generation on projector_duplicate (generation_id, id);

-- Events without an id, of topics that declare where their events carry one. They are in the counters of
-- their checkpoint as well, by what became of them.
create table projector_without_id (
    generation_id integer not null references projector_generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    events        integer not null,
    primary key (generation_id, topic, partition)
) without rowid;
