//! Child processes that cannot outlive their parent.

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;

use rustix::process::Signal;

/// Starts `command` so that the kernel sends it `farewell` when this process ends, for whatever
/// reason. It runs in a process group of its own: a Ctrl-C in the terminal is for its parent.
pub fn spawn(mut command: Command, farewell: Signal) -> io::Result<Child> {
    use std::os::unix::process::CommandExt;

    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only two system calls are made; nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(farewell))?;
                if rustix::process::getppid() != Some(parent) {
                    return Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()));
                }
                Ok(())
            });
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = farewell;
    on_keeper_thread(command)
}

struct Request {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

/// Linux ties a death signal to the *thread* that forked, and a test's thread ends with the test.
/// So one thread starts all children, and lives as long as the process.
fn on_keeper_thread(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<Sender<Request>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (requests, queue) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for mut request in queue {
                let _ = request.answer.send(request.command.spawn());
            }
        });
        requests
    });
    let (answer, result) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts servers is gone");
    keeper.send(Request { command, answer }).map_err(|_| gone())?;
    result.recv().map_err(|_| gone())?
}
