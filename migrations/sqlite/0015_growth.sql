-- What operators asked for outlives the generation and the projection that it is about. When the generation is
-- removed, its projection and its number are written here. Null: they are those of `generation_id`.
create table projector_operation_new (
    id             integer primary key autoincrement,
    generation_id  integer references projector_generation on delete cascade,
    action         text not null check (action in
                     ('retry', 'discard', 'erase', 'pause', 'resume', 'skip', 'expire', 'move', 'retire', 'drop')),
    dead_letter_id integer,
    key_id         blob,
    topic          text,
    partition      integer,
    dry_run        integer not null default 0,
    reason         text,
    asked_by       text not null,
    asked_at       integer not null,
    done_at        integer,
    verdict        text,
    projection     text,
    generation     integer
) strict;
insert into projector_operation_new
  (id, generation_id, action, dead_letter_id, key_id, topic, partition, dry_run, reason, asked_by, asked_at, done_at, verdict)
select id, generation_id, action, dead_letter_id, key_id, topic, partition, dry_run, reason, asked_by, asked_at, done_at,
  verdict from projector_operation;
delete from sqlite_sequence where name = 'projector_operation_new';
insert into sqlite_sequence (name, seq)
select 'projector_operation_new', seq from sqlite_sequence where name = 'projector_operation';
drop table projector_operation;
alter table projector_operation_new rename to projector_operation;
create index projector_operation_open on projector_operation (generation_id, id) where done_at is null;
create index projector_operation_of_removed on projector_operation (projection, id) where generation_id is null;

-- When the bytes of a component were removed that no version can come back to: its row stays, and has none.
alter table projector_component add column pruned_at integer;
