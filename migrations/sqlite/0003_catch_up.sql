-- When the generation had first come to the end of its topics. Until then its partitions are merged by
-- time.
alter table projector_generation add column caught_up_at integer;
update projector_generation set caught_up_at = unixepoch() * 1000000
where id in (select generation_id from projector_checkpoint);
