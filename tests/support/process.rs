//! What a process uses, as the kernel counts it.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use rlimit::Resource;

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

/// Lets a process open so many files beside those that it has open, and no more.
pub fn leave_files(pid: u32, left: usize) {
    let open: HashSet<u64> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .map(|file| file.unwrap().file_name().to_string_lossy().parse().unwrap())
        .collect();
    // A file gets the lowest number that is free, and the limit is one on numbers.
    let limit = (0..).filter(|number| !open.contains(number)).nth(left).unwrap();
    let (pid, (mut soft, mut hard)) = (pid.try_into().unwrap(), (0, 0));
    rlimit::prlimit(pid, Resource::NOFILE, None, Some((&mut soft, &mut hard))).unwrap();
    rlimit::prlimit(pid, Resource::NOFILE, Some((limit, hard)), None).unwrap();
}

fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second field, the name in brackets, may hold anything. Counted from behind it, the time in the
    // program and in the kernel are the twelfth and the thirteenth.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks: u32 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u32>().unwrap()).sum();
    TICK * ticks
}
