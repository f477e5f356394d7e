//! How much memory there is to use.

use std::fs;

/// Bytes of memory that this process could take without others having to give up any: what the system has available, and no
/// more than the control groups it is in allow. `None` where the system does not say.
pub fn available() -> Option<u64> {
    let free = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(meminfo_available);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = groups.lines().flat_map(limit_files).filter_map(|file| fs::read_to_string(file).ok());
    // "max" is no number, and means what it says.
    free.into_iter().chain(limits.filter_map(|text| text.trim().parse().ok())).min()
}

/// The line `MemAvailable:   12345 kB`.
fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Where the limits are that a line of `/proc/self/cgroup` (`number:controllers:path`) leads to: those of the group and of
/// all groups around it. In a container the group may be mounted as the root, whatever its path says.
fn limit_files(line: &str) -> Vec<String> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (root, name) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        list if list.split(',').any(|controller| controller == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    std::path::Path::new(path)
        .ancestors()
        .map(|group| format!("{root}{}/{name}", group.to_string_lossy().trim_end_matches('/')))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_available() {
        assert_eq!(meminfo_available("MemTotal: 9 kB\nMemAvailable:    1234 kB\n"), Some(1234 * 1024));
        for bad in ["", "MemAvailable: x kB", "MemAvailable: 5", "MemAvailable: 99999999999999999999 kB"] {
            assert_eq!(meminfo_available(bad), None, "{bad}");
        }
        assert!(available().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn finds_the_limits_of_groups() {
        let unified = ["/sys/fs/cgroup/a/b/memory.max", "/sys/fs/cgroup/a/memory.max", "/sys/fs/cgroup/memory.max"];
        assert_eq!(limit_files("0::/a/b"), unified);
        let old = ["/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
        assert_eq!(limit_files("4:cpu,memory:/job"), old);
        assert_eq!(limit_files("0::/"), ["/sys/fs/cgroup/memory.max"]);
        for other in ["", "5:cpu:/a", "1", "1:name=systemd:/"] {
            assert!(limit_files(other).is_empty(), "{other}");
        }
    }
}
