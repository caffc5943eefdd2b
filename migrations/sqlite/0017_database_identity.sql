-- What tells the file from a copy of it, as JSON: as the first host found it, or `projector adopt`. Null: no host
-- has looked yet.
alter table projector_store add column database_identity text;

-- The ids that a host has as a member of consumer groups, as a JSON array. Null: the host does not tell them.
alter table projector_host add column member_ids text;

-- When a database was told to go on under the store's id, or under a new one.
create table projector_adoption (
    id                integer primary key,
    former_id         text not null,
    new_id            text not null,
    former_identity   text,
    database_identity text not null,
    asked_by          text not null,
    reason            text,
    adopted_at        integer not null
) strict;
