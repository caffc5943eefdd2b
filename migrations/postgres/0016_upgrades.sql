-- The newest migration that the program of this host knows; 0: a host of a version that did not say.
alter table projector.host add column knows bigint not null default 0;
-- A program that does not know this migration may not use the store any more: another one took something away.
alter table projector.store add column needs bigint not null default 0;
