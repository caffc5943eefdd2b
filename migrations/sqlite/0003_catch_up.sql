-- When the generation had first come to the end of its topics.
alter table projector_generation add column caught_up_at integer;
