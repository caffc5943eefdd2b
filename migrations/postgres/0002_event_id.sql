-- Ids of handled events, of topics that declare where their events carry one: a producer's duplicate
-- is told by them. `id` is the first half of a SHA-256.
create table projector.event_id (
    generation_id bigint not null references projector.generation on delete cascade,
    topic         text not null,
    id            bytea not null,
    recorded_at   timestamptz not null,
    primary key (generation_id, topic, id)
);
create index event_id_by_age on projector.event_id (generation_id, topic, recorded_at);
