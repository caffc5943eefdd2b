-- Events that wait for a row that is not there yet are parked as well: `waits_for` is the first half of a SHA-256 over the
-- row's table and key, `awaited` says it in words. Their line is blocked: a key in `blocked_key` with no dead letter. Times
-- are event time, in milliseconds since 1970. Null in events that wait behind another one.
alter table projector.parked add column waits_for bytea;
alter table projector.parked add column awaited text;
-- A row that is written by a later event comes too late.
alter table projector.parked add column wait_until_ms bigint;
-- The event is to be tried: since this time, which is that of the event that wrote the row, or that all partitions have
-- come to.
alter table projector.parked add column ready_ms bigint;
-- Each is for one kind of question, and no other index has what it begins with: on tables that nobody has analyzed, the
-- planner takes any that begins with the generation.
create index parked_by_row on projector.parked (waits_for) where waits_for is not null and ready_ms is null;
create index parked_by_end on projector.parked ((generation_id + 0), wait_until_ms)
  where waits_for is not null and ready_ms is null;
create index parked_ready on projector.parked ((generation_id - 0), id) where ready_ms is not null;

-- The topic that the event was published to, where that is not the one of its position: it came from a file. Null: it is.
alter table projector.parked add column topic_name text;
alter table projector.dead_letter add column topic_name text;

-- read = applied + ignored + parked + waiting + dead + skipped. A host of before counts none as waiting.
alter table projector.checkpoint add column waiting bigint not null default 0;
alter table projector.checkpoint drop constraint checkpoint_check;
alter table projector.checkpoint add constraint checkpoint_check
  check (read = applied + ignored + parked + waiting + dead + skipped);
