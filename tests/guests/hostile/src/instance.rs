//! Deeds against the instance that they run in.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use projector_sdk::log;

use crate::Deed;

static REMEMBERED: AtomicU64 = AtomicU64::new(0);

/// Does what brings an instance down. Where it survives, or for any other deed, the note to write
/// is returned.
pub(crate) fn harm(deed: Deed) -> Option<String> {
    match deed {
        Deed::Write => Some("written".into()),
        Deed::Trap => trap(),
        Deed::Panic => panic!("the hostile guest panics"),
        Deed::Loop => spin(),
        Deed::Recurse => Some(recurse(1).to_string()),
        Deed::MemoryBomb => allocate(),
        Deed::Say => {
            log::error("one line\nand what looks like another");
            Some("said".into())
        }
        Deed::LogFlood => {
            (0..1_000_000).for_each(|line| log::warn(format!("line {line} of a flood")));
            Some("logged".into())
        }
        Deed::Remember => {
            Some(format!("event {} of this instance", REMEMBERED.fetch_add(1, Ordering::Relaxed)))
        }
        _ => None,
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}

fn spin() -> ! {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

#[expect(unconditional_recursion, reason = "that is the deed")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame[depth as usize % 64]
}

fn allocate() -> ! {
    let mut kept = Vec::new();
    loop {
        kept.push(black_box(vec![1u8; 1 << 20]));
    }
}
