//! What a process uses, as the kernel counts it.

use std::fs;
use std::time::{Duration, Instant};

/// Linux counts the time of a process in these, whatever the machine.
const TICK: Duration = Duration::from_millis(10);

/// How long a process is measured.
const WINDOW: Duration = Duration::from_secs(3);

/// The share of a core that a process uses, with all its threads, over the next few seconds.
pub async fn cpu_share(pid: u32) -> f64 {
    let (began, before) = (Instant::now(), cpu_time(pid));
    // This is the window of a measurement: nothing is hoped to have happened after it.
    tokio::time::sleep(WINDOW).await;
    (cpu_time(pid) - before).as_secs_f64() / began.elapsed().as_secs_f64()
}

/// The memory that a process has in use, in bytes.
pub fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    resident.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field, the name in brackets, may hold anything. Counted from behind it, the time in the
    // program and in the kernel are the twelfth and the thirteenth.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u32 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u32>().unwrap()).sum();
    TICK * ticks
}
