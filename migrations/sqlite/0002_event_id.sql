-- Ids of handled events, of topics that declare where their events carry one: a producer's duplicate
-- is told by them. `id` is the first half of a SHA-256, `recorded_at` is in microseconds since 1970.
create table projector_event_id (
    generation_id integer not null references projector_generation on delete cascade,
    topic         text not null,
    id            blob not null,
    recorded_at   integer not null,
    primary key (generation_id, topic, id)
) without rowid;
create index projector_event_id_by_age on projector_event_id (generation_id, topic, recorded_at);
