-- The views that show a generation to readers, as JSON: the newest last, whose prefix is `readers`. Null: those of
-- `readers` alone, with the columns of `layout`.
alter table projector_generation add column views text;
