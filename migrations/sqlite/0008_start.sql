-- The partitions that existed when the generation began to read, as [[topic, number], …]. They begin at the
-- configured start; a partition that is added later begins at its beginning. Null: it has not begun.
alter table projector_generation add column began_with text;
update projector_generation set began_with =
  (select json_group_array(json_array(c.topic, c.partition)) from projector_checkpoint c
   where c.generation_id = projector_generation.id)
where exists (select 1 from projector_checkpoint c where c.generation_id = projector_generation.id);

-- Offsets that the log held when the partition began, before `first_offset`: they are not read.
alter table projector_checkpoint add column before_start integer not null default 0;

-- Where a new generation began, as it was configured then.
alter table projector_deployment add column start text;

-- `moved_by`: the operation that moved the partition to another log after the event was kept: its offset is of
-- the log before that. 0: it is of the log that is read now.
create table projector_dead_letter_new (
    id             integer primary key autoincrement,
    generation_id  integer not null references projector_generation on delete cascade,
    topic          text not null,
    partition      integer not null,
    "offset"       integer not null,
    recorded_at    integer,
    key            blob,
    payload        blob,
    headers        text not null,
    digest         text not null,
    kind           text not null,
    code           text not null,
    detail         text not null,
    died_at        integer not null,
    timestamp_ms   integer,
    oversize_bytes integer,
    db_table       text,
    db_column      text,
    db_constraint  text,
    backtrace      text,
    attempts       integer not null default 1,
    moved_by       integer not null default 0,
    unique (generation_id, topic, partition, "offset", moved_by)
) strict;
insert into projector_dead_letter_new
  (id, generation_id, topic, partition, "offset", recorded_at, key, payload, headers, digest, kind, code, detail,
   died_at, timestamp_ms, oversize_bytes, db_table, db_column, db_constraint, backtrace, attempts)
select id, generation_id, topic, partition, "offset", recorded_at, key, payload, headers, digest, kind, code, detail,
  died_at, timestamp_ms, oversize_bytes, db_table, db_column, db_constraint, backtrace, attempts
from projector_dead_letter;
-- No number is given twice.
delete from sqlite_sequence where name = 'projector_dead_letter_new';
insert into sqlite_sequence (name, seq)
select 'projector_dead_letter_new', seq from sqlite_sequence where name = 'projector_dead_letter';
-- Nothing may point to a table that is dropped.
create table projector_blocked_key_kept as select * from projector_blocked_key;
delete from projector_blocked_key;
drop table projector_dead_letter;
alter table projector_dead_letter_new rename to projector_dead_letter;
create index projector_dead_letter_by_age on projector_dead_letter (generation_id, died_at);
insert into projector_blocked_key (generation_id, key_id, dead_letter_id, blocked_at)
select generation_id, key_id, dead_letter_id, blocked_at from projector_blocked_key_kept;
drop table projector_blocked_key_kept;

create table projector_parked_new (
    id            integer primary key autoincrement,
    generation_id integer not null references projector_generation on delete cascade,
    key_id        blob not null,
    topic         text not null,
    partition     integer not null,
    "offset"      integer not null,
    timestamp_ms  integer,
    oversize_bytes integer,
    key           blob,
    payload       blob,
    headers       text not null,
    parked_at     integer not null,
    moved_by      integer not null default 0,
    unique (generation_id, topic, partition, "offset", moved_by)
) strict;
insert into projector_parked_new
  (id, generation_id, key_id, topic, partition, "offset", timestamp_ms, oversize_bytes, key, payload, headers, parked_at)
select id, generation_id, key_id, topic, partition, "offset", timestamp_ms, oversize_bytes, key, payload, headers,
  parked_at from projector_parked;
delete from sqlite_sequence where name = 'projector_parked_new';
insert into sqlite_sequence (name, seq)
select 'projector_parked_new', seq from sqlite_sequence where name = 'projector_parked';
drop table projector_parked;
alter table projector_parked_new rename to projector_parked;
create index projector_parked_by_key on projector_parked (generation_id, key_id, id);

create table projector_operation_new (
    id             integer primary key autoincrement,
    generation_id  integer not null references projector_generation on delete cascade,
    action         text not null check (action in ('retry', 'discard', 'erase', 'pause', 'resume', 'skip', 'expire', 'move')),
    dead_letter_id integer,
    key_id         blob,
    topic          text,
    partition      integer,
    dry_run        integer not null default 0,
    reason         text,
    asked_by       text not null,
    asked_at       integer not null,
    done_at        integer,
    verdict        text
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
