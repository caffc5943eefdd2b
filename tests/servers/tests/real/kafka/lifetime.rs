use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use projector_test_servers::{Kafka, Postgres};

/// Set for the process that is killed while it owns servers.
const VICTIM: &str = "PROJECTOR_TEST_SERVERS_VICTIM";

#[test]
fn servers_die_with_the_process_that_started_them() {
    if env::var_os(VICTIM).is_some() {
        own_servers_until_killed();
    }
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "kafka::lifetime::servers_die_with_the_process_that_started_them", "--nocapture"])
        .env(VICTIM, "yes")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(victim.stdout.take().unwrap());
    let servers = output
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("servers: ").map(|(_, servers)| servers.to_owned()))
        .expect("the other process started no servers");
    let servers: Vec<u32> = servers.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert_eq!(servers.len(), 2);
    assert!(servers.iter().all(|pid| lives(*pid)), "a server is gone before its owner");

    victim.kill().unwrap();
    victim.wait().unwrap();

    let deadline = Instant::now() + Duration::from_secs(10);
    while servers.iter().any(|pid| lives(*pid)) {
        assert!(Instant::now() < deadline, "a server outlives its owner");
        thread::yield_now();
    }
}

/// The thread that starts them ends before the servers are asked to live on.
fn own_servers_until_killed() -> ! {
    let starting = thread::spawn(|| (Kafka::start().unwrap(), Postgres::start().unwrap()));
    let (kafka, postgres) = starting.join().unwrap();
    println!("servers: {} {}", kafka.pid().unwrap(), postgres.pid().unwrap());
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().lock().lines().next();
    panic!("nobody killed this process");
}

/// A zombie that init has yet to reap counts as dead.
fn lives(pid: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")) else {
        return false;
    };
    !status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}
