-- What tells the database from a copy of it, as JSON: as the first host found it, or `projector adopt`. Null: no
-- host has looked yet.
alter table projector.store add column database_identity text;

-- The ids that a host has as a member of consumer groups, as a JSON array. Null: the host does not tell them.
alter table projector.host add column member_ids text;

-- When a database was told to go on under the store's id, or under a new one.
create table projector.adoption (
    id                bigint generated always as identity primary key,
    former_id         uuid not null,
    new_id            uuid not null,
    former_identity   text,
    database_identity text not null,
    asked_by          text not null,
    reason            text,
    adopted_at        timestamptz not null default now()
);
