-- An index that begins with the columns of the primary key is taken for it as long as the table is not
-- analyzed, and reads all ids of a topic where one is asked for. A sum in place of the column keeps it to what
-- it is for: ids that are out of their window.
drop index projector.event_id_by_age;
create index event_id_by_age on projector.event_id ((generation_id + 0), topic, recorded_at);

-- How often the database ended a batch's transaction because it and another one waited for each other's locks.
alter table projector.generation add column deadlocks bigint not null default 0;
