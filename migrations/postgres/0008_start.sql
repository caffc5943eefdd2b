-- The partitions that existed when the generation began to read, as [[topic, number], …]. They begin at the
-- configured start; a partition that is added later begins at its beginning. Null: it has not begun.
alter table projector.generation add column began_with jsonb;
update projector.generation g set began_with =
  (select jsonb_agg(jsonb_build_array(c.topic, c.partition)) from projector.checkpoint c where c.generation_id = g.id)
where exists (select from projector.checkpoint c where c.generation_id = g.id);

-- Offsets that the log held when the partition began, before `first_offset`: they are not read.
alter table projector.checkpoint add column before_start bigint not null default 0;

-- Where a new generation began, as it was configured then.
alter table projector.deployment add column start text;

-- The operation that moved the partition to another log after the event was kept: its offset is of the log
-- before that. 0: it is of the log that is read now.
alter table projector.dead_letter add column moved_by bigint not null default 0;
alter table projector.dead_letter drop constraint dead_letter_generation_id_topic_partition_offset_key;
alter table projector.dead_letter add constraint dead_letter_position unique (generation_id, topic, partition, "offset", moved_by);
alter table projector.parked add column moved_by bigint not null default 0;
alter table projector.parked drop constraint parked_generation_id_topic_partition_offset_key;
alter table projector.parked add constraint parked_position unique (generation_id, topic, partition, "offset", moved_by);

alter table projector.operation drop constraint operation_action_check;
alter table projector.operation add constraint operation_action_check check (action in
  ('retry', 'discard', 'erase', 'pause', 'resume', 'skip', 'expire', 'move'));
