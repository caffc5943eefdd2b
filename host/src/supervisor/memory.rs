//! Gives memory that the process does not use back to the machine.
//!
//! Lanes, rebuilds and clients of the brokers come and go, each with threads of its own. glibc keeps what a thread frees
//! for the next allocations of the same few threads, so a host under deployments came to hold ten times of what it used.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// To give back costs a scan of what is free, and what is needed again is asked for again.
const INTERVAL: Duration = Duration::from_secs(30);

/// Gives back what is not used, from time to time, until the host stops.
pub(super) async fn give_back(stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.cancelled() => return,
        }
        // It takes the allocator's locks, one after the other. What it panics with, the next time may not.
        drop(tokio::task::spawn_blocking(trim).await);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    unsafe extern "C" {
        /// Of glibc: gives free pages of all arenas back, but for so many bytes at the end of the heap.
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    malloc_trim(0);
}

/// Other allocators do it by themselves, or cannot be told.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
        kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    #[test]
    fn what_a_thread_freed_is_given_back() {
        // One in a hundred stays, so that nothing at the end of the heap is free.
        let kept = std::thread::spawn(|| {
            let blocks: Vec<Vec<u8>> = (0..50_000).map(|_| vec![1; 4_000]).collect();
            blocks.into_iter().step_by(100).collect::<Vec<_>>()
        });
        let kept = kept.join().expect("it allocates");
        let before = resident();
        trim();
        let given_back = before.saturating_sub(resident());
        assert!(given_back > 100 * MIB, "{} MiB of {} MiB", given_back / MIB, before / MIB);
        assert_eq!(kept.len(), 500);
    }
}
