-- The transaction that set `caught_up_at`: a snapshot that is older may not see all rows of the generation. Null: set
-- by a host that did not store it.
alter table projector.generation add column caught_up_in xid8;
-- The views that show a generation to readers, as JSON: the newest last, whose schema is `readers`. Null: those of
-- `readers` alone, with the columns of `layout`.
alter table projector.generation add column views jsonb;
