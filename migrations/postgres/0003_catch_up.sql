-- When the generation had first come to the end of its topics. Until then, where the order between
-- partitions shows in the rows, one host reads it alone.
alter table projector.generation add column caught_up_at timestamptz;
