-- The record time of the last settled event of the partition, by its own clock, never ahead of the database's.
-- Kept where topics declare event ids: no id is forgotten that a partition may still bring again. Null: unknown.
alter table projector.checkpoint add column recorded_at timestamptz;
