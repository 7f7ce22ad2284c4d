//! What a process has used, from /proc.

use std::time::Duration;

/// A process of this machine.
#[derive(Clone, Copy)]
pub struct Process(pub u32);

impl Process {
    /// CPU time so far, its own and the kernel's for it, of all its threads.
    pub fn cpu(self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("/proc");
        // The name, in brackets, may hold anything; utime and stime are the 14th and 15th field.
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
        // USER_HZ is 100 on every Linux that PostgreSQL runs on.
        Duration::from_millis(ticks * 10)
    }

    /// Memory that is its own and resident, in MB.
    pub fn resident_megabytes(self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0)).expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("kB") / 1024.0
    }
}
