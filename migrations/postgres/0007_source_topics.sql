-- The physical topics that a generation reads, or read before: which of them match a pattern changes with the
-- topics that exist. `left_at`: it does not exist any more, or does not match.
create table projector.source_topic (
    generation_id bigint not null references projector.generation on delete cascade,
    topic         text not null,
    joined_at     timestamptz not null default now(),
    left_at       timestamptz,
    primary key (generation_id, topic)
);
