-- The transaction that set `caught_up_at`: a snapshot that is older may not see all rows of the generation. Null: set
-- by a host that did not store it.
alter table projector.generation add column caught_up_in xid8;
