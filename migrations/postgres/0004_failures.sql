-- Why something stands still: the kind of failure, beside the reason in words.
alter table projector.generation add column halted_kind text;
alter table projector.checkpoint add column paused_kind text;
-- An operator's pause, and how often one has said "go on": hosts watch for it.
alter table projector.generation add column paused text;
alter table projector.generation add column resumes bigint not null default 0;
-- The last time that a plugin answered otherwise to the same event than it had.
alter table projector.generation add column impure text;

-- What the database said of the rows that it refused; where a trap was; how often it was tried again.
alter table projector.dead_letter add column timestamp_ms bigint;
-- What the value weighs that was left in the log.
alter table projector.dead_letter add column oversize_bytes bigint;
alter table projector.dead_letter add column db_table text;
alter table projector.dead_letter add column db_column text;
alter table projector.dead_letter add column db_constraint text;
alter table projector.dead_letter add column backtrace text;
alter table projector.dead_letter add column attempts integer not null default 1;
create index dead_letter_by_age on projector.dead_letter (generation_id, died_at);

-- Keys of which an event failed. Its row is what parking and retrying lock: while it is there, later
-- events of the key wait. `key_id` is the first half of a SHA-256 over ordering group and key.
create table projector.blocked_key (
    generation_id bigint not null references projector.generation on delete cascade,
    key_id        bytea not null,
    -- Null: nobody's, while what waits is let go.
    dead_letter_id bigint references projector.dead_letter,
    blocked_at    timestamptz not null default now(),
    primary key (generation_id, key_id)
);
create index blocked_key_by_letter on projector.blocked_key (dead_letter_id);

-- Events that wait behind a dead letter of their key, in the order of their ids.
create table projector.parked (
    id            bigint generated always as identity primary key,
    generation_id bigint not null references projector.generation on delete cascade,
    key_id        bytea not null,
    topic         text not null,
    partition     integer not null,
    "offset"      bigint not null,
    timestamp_ms  bigint,
    oversize_bytes bigint,
    key           bytea,
    payload       bytea,
    headers       jsonb not null,
    parked_at     timestamptz not null default now(),
    unique (generation_id, topic, partition, "offset")
);
create index parked_by_key on projector.parked (generation_id, key_id, id);

-- Everything that an operator asked for, and what came of it. What writes rows is done by the lane that
-- is granted the partition; the rest is done when it is written here.
create table projector.operation (
    id             bigint generated always as identity primary key,
    generation_id  bigint not null references projector.generation on delete cascade,
    action         text not null check (action in ('retry', 'discard', 'erase', 'pause', 'resume', 'skip', 'expire')),
    dead_letter_id bigint,
    key_id         bytea,
    topic          text,
    partition      integer,
    dry_run        boolean not null default false,
    reason         text,
    asked_by       text not null,
    asked_at       timestamptz not null default now(),
    done_at        timestamptz,
    verdict        jsonb
);
create index operation_open on projector.operation (generation_id, id) where done_at is null;

alter table projector.outcome drop constraint outcome_outcome_check;
alter table projector.outcome add constraint outcome_outcome_check check (outcome in ('ignored', 'dead', 'skipped'));
