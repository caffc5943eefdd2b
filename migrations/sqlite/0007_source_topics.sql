-- The physical topics that a generation reads, or read before: which of them match a pattern changes with the
-- topics that exist. `left_at`: it does not exist any more, or does not match. Times are in microseconds since 1970.
create table projector_source_topic (
    generation_id integer not null references projector_generation on delete cascade,
    topic         text not null,
    joined_at     integer not null,
    left_at       integer,
    primary key (generation_id, topic)
) without rowid;
