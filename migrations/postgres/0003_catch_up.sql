-- When the generation had first come to the end of its topics. Until then its partitions are merged by
-- time and, where the order between them shows in the rows, read by one host alone.
alter table projector.generation add column caught_up_at timestamptz;
update projector.generation g set caught_up_at = now()
where exists (select from projector.checkpoint c where c.generation_id = g.id);
