-- The record time of the last settled event of the partition, by its own clock, never ahead of the host's. In
-- microseconds since 1970. Kept where topics declare event ids: no id is forgotten that a partition may still bring
-- again. Null: unknown.
alter table projector_checkpoint add column recorded_at integer;
