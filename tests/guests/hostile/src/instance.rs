//! Behaviours that harm the instance itself.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use projector_sdk::log;

use crate::instruction::Behaviour;

static REMEMBERED: AtomicU64 = AtomicU64::new(0);

/// Harms the instance. If the instance survives, returns the note to write. `None`: the behaviour is one of `answers`.
pub(crate) fn harm(behaviour: Behaviour) -> Option<String> {
    match behaviour {
        Behaviour::Write => Some("written".into()),
        Behaviour::Trap => trap(),
        Behaviour::Panic => panic!("the hostile guest panics"),
        Behaviour::Loop => spin(),
        Behaviour::Recurse => Some(recurse(1).to_string()),
        Behaviour::MemoryBomb => allocate(),
        Behaviour::Say => {
            log::error("one line\nand what looks like another");
            Some("said".into())
        }
        Behaviour::LogFlood => {
            (0..1_000_000).for_each(|line| log::warn(format!("line {line} of a flood")));
            Some("logged".into())
        }
        Behaviour::Remember => {
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

#[expect(unconditional_recursion, reason = "this overflows the stack on purpose")]
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
