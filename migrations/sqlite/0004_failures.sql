-- Why something stands still: the kind of failure, beside the reason in words.
alter table projector_generation add column halted_kind text;
alter table projector_checkpoint add column paused_kind text;
-- An operator's pause, and how often one has said "go on": hosts watch for it.
alter table projector_generation add column paused text;
alter table projector_generation add column resumes integer not null default 0;
-- The last time that a plugin answered otherwise to the same event than it had.
alter table projector_generation add column impure text;

-- What the database said of the rows that it refused; where a trap was; how often it was tried again. No
-- number is given twice: an operator may still mean the first one.
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
    -- What the value weighs that was left in the log.
    oversize_bytes integer,
    db_table       text,
    db_column      text,
    db_constraint  text,
    backtrace      text,
    attempts       integer not null default 1,
    unique (generation_id, topic, partition, "offset")
) strict;
insert into projector_dead_letter_new
  (id, generation_id, topic, partition, "offset", recorded_at, key, payload, headers, digest, kind, code, detail, died_at)
select id, generation_id, topic, partition, "offset", recorded_at, key, payload, headers, digest, kind, code, detail,
  died_at from projector_dead_letter;
drop table projector_dead_letter;
alter table projector_dead_letter_new rename to projector_dead_letter;
create index projector_dead_letter_by_age on projector_dead_letter (generation_id, died_at);

-- Keys of which an event failed: while its row is there, later events of the key wait. `key_id` is the
-- first half of a SHA-256 over ordering group and key.
create table projector_blocked_key (
    generation_id integer not null references projector_generation on delete cascade,
    key_id        blob not null,
    -- Null: nobody's, while what waits is let go.
    dead_letter_id integer references projector_dead_letter,
    blocked_at    integer not null,
    primary key (generation_id, key_id)
) strict;
create index projector_blocked_key_by_letter on projector_blocked_key (dead_letter_id);

-- Events that wait behind a dead letter of their key, in the order of their ids.
create table projector_parked (
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
    unique (generation_id, topic, partition, "offset")
) strict;
create index projector_parked_by_key on projector_parked (generation_id, key_id, id);

-- Everything that an operator asked for, and what came of it. What writes rows is done by the lane that
-- is granted the partition; the rest is done when it is written here.
create table projector_operation (
    id             integer primary key autoincrement,
    generation_id  integer not null references projector_generation on delete cascade,
    action         text not null check (action in ('retry', 'discard', 'erase', 'pause', 'resume', 'skip', 'expire')),
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
create index projector_operation_open on projector_operation (generation_id, id) where done_at is null;

create table projector_outcome_new (
    generation_id integer not null references projector_generation on delete cascade,
    topic         text not null,
    partition     integer not null,
    outcome       text not null check (outcome in ('ignored', 'dead', 'skipped')),
    code          text not null,
    events        integer not null,
    primary key (generation_id, topic, partition, outcome, code)
) strict;
insert into projector_outcome_new select * from projector_outcome;
drop table projector_outcome;
alter table projector_outcome_new rename to projector_outcome;
