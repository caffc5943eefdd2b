-- Events that wait for a row that is not there yet are parked as well: `waits_for` is the first half of a SHA-256 over the
-- row's table and key, `awaited` says it in words. Their line is blocked: a key in `blocked_key` with no dead letter. Times
-- are event time, in milliseconds since 1970. Null in events that wait behind another one.
alter table projector_parked add column waits_for blob;
alter table projector_parked add column awaited text;
-- A row that is written by a later event comes too late.
alter table projector_parked add column wait_until_ms integer;
-- The event is to be tried: since this time, which is that of the event that wrote the row, or that all partitions have
-- come to.
alter table projector_parked add column ready_ms integer;
create index projector_parked_by_row on projector_parked (generation_id, waits_for)
  where waits_for is not null and ready_ms is null;
create index projector_parked_by_end on projector_parked (generation_id, wait_until_ms)
  where waits_for is not null and ready_ms is null;
create index projector_parked_ready on projector_parked (generation_id, id) where ready_ms is not null;

-- The topic that the event was published to, where that is not the one of its position: it came from a file. Null: it is.
alter table projector_parked add column topic_name text;
alter table projector_dead_letter add column topic_name text;

-- read = applied + ignored + parked + waiting + dead + skipped. A host of before counts none as waiting.
create table projector_checkpoint_new (
    generation_id integer not null references projector_generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    next_offset   integer not null,
    first_offset  integer not null,
    topic_id      text,
    cluster_id    text,
    read          integer not null default 0,
    applied       integer not null default 0,
    ignored       integer not null default 0,
    parked        integer not null default 0,
    dead          integer not null default 0,
    skipped       integer not null default 0,
    paused        text,
    updated_at    integer not null,
    paused_kind   text,
    before_start  integer not null default 0,
    recorded_at   integer,
    waiting       integer not null default 0,
    primary key (generation_id, topic, partition),
    check (read = applied + ignored + parked + waiting + dead + skipped)
) strict;
insert into projector_checkpoint_new
  (generation_id, topic, partition, next_offset, first_offset, topic_id, cluster_id, read, applied, ignored, parked, dead,
   skipped, paused, updated_at, paused_kind, before_start, recorded_at)
select generation_id, topic, partition, next_offset, first_offset, topic_id, cluster_id, read, applied, ignored, parked, dead,
  skipped, paused, updated_at, paused_kind, before_start, recorded_at
from projector_checkpoint;
drop table projector_checkpoint;
alter table projector_checkpoint_new rename to projector_checkpoint;
