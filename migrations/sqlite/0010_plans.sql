-- How often the database ended a batch's transaction because it and another one waited for each other's locks:
-- never here, where one writes at a time.
alter table projector_generation add column deadlocks integer not null default 0;
