//! The SDK as authors use it. One program, with a file for each part.

mod compile_errors;
mod duplicates;
mod harness;
mod projection;
mod shop;
mod waiting;
