//! Memory as Linux counts it. Elsewhere nothing is known, and plans are made without it.

use std::path::Path;

/// Bytes of a line `KEY:  123 kB`.
fn kilobytes(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(1024.0 * line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()?)
}

/// Resident memory of this process.
pub fn resident() -> Option<f64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmRSS")
}

/// Scratch that the matrix products keep for each thread: as much as its second-level cache holds (the `gemm` crate).
pub(super) fn scratch() -> f64 {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
    let cache = text.trim().strip_suffix('K').and_then(|k| k.parse::<f64>().ok()).unwrap_or(1024.0);
    1024.0 * cache * llm_tensor::rayon::current_num_threads() as f64
}

/// What this process may take in all: what the system has left, or its control group if that has less, and what it has already.
pub fn available() -> Option<f64> {
    let system = kilobytes(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable")?;
    let number = |file: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()?.trim().parse::<f64>().ok();
    // A group without a limit says `max`, which is no number. Its current memory holds cached files, which it can drop.
    let group = number("memory.max").map(|limit| limit - number("memory.current").unwrap_or(0.0) + inactive_files());
    Some(group.map_or(system, |group| system.min(group)).max(0.0) + resident().unwrap_or(0.0))
}

/// Cached files of the control group that nobody has read lately.
fn inactive_files() -> f64 {
    let text = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok()).unwrap_or(0.0)
}

/// The most memory that this process had, without what is resident of files below `folders`.
pub fn measured_peak(folders: &[&Path]) -> Option<f64> {
    let peak = llm_run::run::peak_memory_bytes()? as f64;
    Some(peak - mapped(&std::fs::read_to_string("/proc/self/smaps").unwrap_or_default(), folders))
}

/// Resident bytes of mappings of files below `folders`, of the text of `smaps`: a line `ADDRESSES FLAGS OFFSET DEVICE INODE PATH` heads the
/// lines `Key: N kB` of each mapping.
fn mapped(smaps: &str, folders: &[&Path]) -> f64 {
    let folders: Vec<_> = folders.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
    let (mut counts, mut bytes) = (false, 0.0);
    for line in smaps.lines() {
        match line.find('/').filter(|_| line.split(' ').next().is_some_and(|first| first.contains('-'))) {
            Some(at) => counts = folders.iter().any(|folder| Path::new(&line[at..]).starts_with(folder)),
            None if line.split(' ').next().is_some_and(|first| first.contains('-')) => counts = false,
            None if counts => bytes += kilobytes(line, "Rss").unwrap_or(0.0),
            None => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_below_the_folders_count() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().canonicalize().unwrap().join("shard with space.bin");
        let smaps = format!(
            "7f00-7f10 r--p 00000000 08:01 123    {}\nSize:   64 kB\nRss:   12 kB\n7f20-7f30 rw-p 00000000 00:00 0 \nRss:  100 kB\n\
             7f40-7f50 r-xp 00000000 08:01 9    /usr/lib/libc.so.6\nRss: 50 kB\n7f60-7f70 r--p 00001000 08:01 123    {}\nRss: 3 kB\n",
            below.display(),
            below.display()
        );
        assert_eq!(mapped(&smaps, &[dir.path()]), 15.0 * 1024.0);
        assert_eq!(mapped(&smaps, &[]), 0.0);
    }

    #[test]
    fn what_linux_says_is_plausible() {
        if let (Some(resident), Some(available), Some(peak)) = (resident(), available(), measured_peak(&[])) {
            assert!(resident > 1e6 && available >= resident && peak >= 0.9 * resident, "{resident} {available} {peak}");
        }
    }
}
