//! Returns memory that the process does not use to the operating system.
//!
//! Lanes, rebuilds and Kafka clients start and end, each with threads of its own. glibc keeps the memory that a thread
//! has freed for later allocations of the same few threads. Without this task, a host with many deployments held ten
//! times the memory that it used.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Each call scans the free memory, and memory that is needed later must be requested again. So it is called rarely.
const INTERVAL: Duration = Duration::from_secs(30);

/// Returns unused memory at intervals, until the host stops.
pub(super) async fn return_unused(stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.cancelled() => return,
        }
        // The call waits for locks of the allocator, so it runs on a thread for blocking work. A panic is ignored: the
        // next call may succeed.
        drop(tokio::task::spawn_blocking(trim).await);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn trim() {
    unsafe extern "C" {
        /// glibc: returns the free pages of all arenas, except for `pad` bytes at the end of the heap.
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    malloc_trim(0);
}

/// Other allocators return memory by themselves, or have no such function.
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
