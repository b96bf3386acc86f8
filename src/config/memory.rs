//! The memory that the process may use.

use std::path::{Path, PathBuf};

/// The memory that the process may use, in bytes: the lowest limit of its control groups, or else the memory of the
/// machine. `None` if the system does not report it (no `/proc`).
pub(crate) fn usable_memory() -> Option<usize> {
    usable_below(Path::new("/"))
}

/// The memory for a system whose root is the folder `root`.
fn usable_below(root: &Path) -> Option<usize> {
    let limits = group_limits(root).into_iter();
    limits.chain(machine_memory(root)).min().and_then(|bytes| usize::try_from(bytes).ok())
}

/// `MemTotal` of `/proc/meminfo`, in bytes (proc(5)).
fn machine_memory(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?;
    kilobytes.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The memory limits of the process's control group and of the groups above it, in bytes: `memory.max` (cgroups(7),
/// version 2) and `memory.limit_in_bytes` (version 1). A group without a limit reports "max", or a number beyond the
/// machine's memory.
fn group_limits(root: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let folders = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let path = path.trim_start_matches('/');
        match controllers {
            "" => Some((root.join("sys/fs/cgroup"), path, "memory.max")),
            "memory" => Some((root.join("sys/fs/cgroup/memory"), path, "memory.limit_in_bytes")),
            _ => None,
        }
    });
    let limit = |folder: PathBuf, name| std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok();
    folders
        .flat_map(|(mount, path, name)| {
            // In a container the path may be the host's. Then only the mount itself exists.
            let groups: Vec<PathBuf> = Path::new(path).ancestors().map(|group| mount.join(group)).collect();
            groups.into_iter().filter_map(move |group| limit(group, name))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       24000 kB\nMemFree:        1 kB\n");

    #[test]
    fn the_least_limit_of_the_groups_and_the_machine_counts() {
        let group = ("proc/self/cgroup", "0::/a.slice/b.service\n");
        let first = ("proc/self/cgroup", "12:memory:/docker/1\n3:cpu:/\n0::/\n");
        for (files, expected) in [
            (vec![MACHINE], Some(24_576_000)),
            (vec![MACHINE, group], Some(24_576_000)),
            (vec![MACHINE, group, ("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n")], Some(24_576_000)),
            (vec![MACHINE, group, ("sys/fs/cgroup/a.slice/b.service/memory.max", "4096\n")], Some(4096)),
            (vec![MACHINE, group, ("sys/fs/cgroup/a.slice/memory.max", "8192\n")], Some(8192)),
            // A container: the path is the host's.
            (vec![MACHINE, group, ("sys/fs/cgroup/memory.max", "512\n")], Some(512)),
            (vec![MACHINE, first, ("sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "1024\n")], Some(1024)),
            (
                vec![MACHINE, first, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")],
                Some(24_576_000),
            ),
            (vec![], None),
        ] {
            assert_eq!(usable_below(system(&files).path()), expected, "{files:?}");
        }
    }
}
