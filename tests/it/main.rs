mod harness;
mod kafka;
mod loading;
mod store;
