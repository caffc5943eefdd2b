-- What operators asked for outlives the generation and the projection that it is about. When the generation is
-- removed, its projection and its number are written here. Null: they are those of `generation_id`.
alter table projector.operation alter column generation_id drop not null;
alter table projector.operation add column projection text;
alter table projector.operation add column generation integer;
create index operation_of_removed on projector.operation (projection, id) where generation_id is null;
alter table projector.operation drop constraint if exists operation_action_check;
alter table projector.operation add constraint operation_action_check check (action in
  ('retry', 'discard', 'erase', 'pause', 'resume', 'skip', 'expire', 'move', 'retire', 'drop'));

-- When the bytes of a component were removed that no version can come back to: its row stays, and has none.
alter table projector.component add column pruned_at timestamptz;
