//! The properties that are fuzzed, held against real inputs, and against those that broke them once.

use std::fs;

use projector_fuzz::{TARGETS, regressions};

#[test]
fn every_seed_is_taken() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        for (at, seed) in seeds.iter().enumerate() {
            assert!((target.check)(seed), "{}: seed {at} is refused", target.name);
        }
    }
}

#[test]
fn what_was_found_once_is_mended() {
    for target in TARGETS {
        let Ok(kept) = fs::read_dir(regressions().join(target.name)) else { continue };
        for file in kept {
            let path = file.unwrap().path();
            println!("{}", path.display());
            (target.check)(&fs::read(&path).unwrap());
        }
    }
}
