-- The newest migration that the program of this host knows; 0: a host of a version that did not say.
alter table projector_host add column knows integer not null default 0;
-- A program that does not know this migration may not use the store any more: another one took something away.
alter table projector_store add column needs integer not null default 0;
