mod harness;
mod kafka;
mod store;
