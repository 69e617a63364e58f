//! How much memory the process may use, so that an alarm can compare what it does use with something.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use procfs::ProcessCGroup;
use procfs::process::Process;
use procfs::{Current, Meminfo};

/// Where the kernel shows control groups.
const MOUNTED: &str = "/sys/fs/cgroup";

/// In bytes: the least of the limits of its control groups and what the machine has. A container's limit, Kubernetes' and
/// systemd's are control groups' limits. None where neither can be read.
#[must_use]
pub fn limit() -> Option<u64> {
    let machine = Meminfo::current().ok().map(|memory| memory.mem_total);
    let group = least(Path::new(MOUNTED), &groups()).map(|group| group.limit);
    group.into_iter().chain(machine).min()
}

/// In bytes, what counts against that limit: what is resident, or, where a control group limits it that it has to itself, what
/// that is charged with beyond files that it can do without, whichever is more; buffers of sockets are in the latter alone.
/// With `alone`, what is resident.
#[must_use]
pub fn used(alone: bool) -> Option<u64> {
    let stat = Process::myself().and_then(|process| process.stat()).ok()?;
    let resident = stat.rss * procfs::page_size();
    if alone {
        return Some(resident);
    }
    let machine = Meminfo::current().map_or(u64::MAX, |memory| memory.mem_total);
    let group = least(Path::new(MOUNTED), &groups());
    let charged = group.filter(|group| group.limit < machine && group.belongs_to(std::process::id()));
    Some(charged.and_then(|group| group.charged()).unwrap_or(0).max(resident))
}

fn groups() -> Vec<ProcessCGroup> {
    Process::myself().and_then(|process| process.cgroups()).map(|groups| groups.0).unwrap_or_default()
}

/// A control group with a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    limit: u64,
    directory: PathBuf,
    /// Of the control groups' interface: 1 or 2.
    version: u8,
}

impl Group {
    /// Whether the process is in it, with one other at most, as the first one of a container may be.
    fn belongs_to(&self, process: u32) -> bool {
        let processes = read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        let is_there = processes.lines().any(|line| line.trim().parse::<u32>() == Ok(process));
        is_there && processes.lines().count() <= 2
    }

    fn charged(&self) -> Option<u64> {
        let (usage, files) = match self.version {
            1 => ("memory.usage_in_bytes", ["total_inactive_file ", "total_active_file "]),
            _ => ("memory.current", ["inactive_file ", "active_file "]),
        };
        let usage: u64 = read_to_string(self.directory.join(usage)).ok()?.trim().parse().ok()?;
        let stat = read_to_string(self.directory.join("memory.stat")).unwrap_or_default();
        let files: u64 = files
            .iter()
            .filter_map(|name| {
                stat.lines().find_map(|line| line.strip_prefix(*name)?.trim().parse::<u64>().ok())
            })
            .sum();
        Some(usage.saturating_sub(files))
    }
}

/// The one with the least limit of these groups and of those that they are in.
fn least(mounted: &Path, groups: &[ProcessCGroup]) -> Option<Group> {
    let limits = groups.iter().flat_map(|group| {
        let (root, file, version) = if group.hierarchy == 0 {
            (mounted.to_path_buf(), "memory.max", 2)
        } else if group.controllers.iter().any(|controller| controller == "memory") {
            (mounted.join("memory"), "memory.limit_in_bytes", 1)
        } else {
            return Vec::new();
        };
        // Inside a container the path may be one of the host's, which is not there: its root is the group then.
        let path = root.join(group.pathname.trim_start_matches('/'));
        let known = path.ancestors().take_while(|directory| directory.starts_with(&root));
        // No limit is "max" in version 2 and a number beyond any machine's memory in version 1.
        let limited = known.filter_map(|directory| {
            let limit = read_to_string(directory.join(file)).ok()?.trim().parse().ok()?;
            Some(Group { limit, directory: directory.to_owned(), version })
        });
        limited.collect()
    });
    limits.min_by_key(|group| group.limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};

    fn group(hierarchy: u32, controllers: &[&str], pathname: &str) -> ProcessCGroup {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        ProcessCGroup { hierarchy, controllers, pathname: pathname.to_owned() }
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let mounted = tempfile::TempDir::new().expect("a directory");
        let service = mounted.path().join("system.slice/node.service");
        create_dir_all(&service).expect("a group");
        write(service.join("memory.max"), "max\n").expect("no limit");
        let unlimited = least(mounted.path(), &[group(0, &[], "/system.slice/node.service")]);
        assert_eq!(unlimited, None);
        write(mounted.path().join("system.slice/memory.max"), "1073741824\n").expect("a limit");
        let limited = least(mounted.path(), &[group(0, &[], "/system.slice/node.service")]);
        assert_eq!(limited.map(|group| group.limit), Some(1 << 30));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let mounted = tempfile::TempDir::new().expect("a directory");
        write(mounted.path().join("memory.max"), "536870912\n").expect("a limit");
        let found = least(mounted.path(), &[group(0, &[], "/")]).expect("a limit");
        assert_eq!(found.limit, 512 << 20);
        write(mounted.path().join("memory.current"), "9000\n").expect("a figure");
        write(mounted.path().join("memory.stat"), "anon 1\ninactive_file 1500\nactive_file 500\n")
            .expect("figures");
        assert_eq!(found.charged(), Some(7_000));
        assert!(!found.belongs_to(7), "nobody is in it");
        write(mounted.path().join("cgroup.procs"), "1\n7\n").expect("two");
        assert!(found.belongs_to(7) && !found.belongs_to(8));
        write(mounted.path().join("cgroup.procs"), "1\n7\n9\n").expect("three");
        assert!(!found.belongs_to(7), "what others use is not its own");
        create_dir_all(mounted.path().join("memory")).expect("a hierarchy");
        write(mounted.path().join("memory/memory.limit_in_bytes"), "268435456\n").expect("a limit");
        let groups = [group(4, &["memory"], "/docker/0123"), group(3, &["cpu"], "/docker/0123")];
        let found = least(mounted.path(), &groups).expect("a limit");
        assert_eq!((found.limit, found.version), (256 << 20, 1));
        write(mounted.path().join("memory/memory.usage_in_bytes"), "5000\n").expect("a figure");
        write(mounted.path().join("memory/memory.stat"), "inactive_file 1\ntotal_inactive_file 1000\n")
            .expect("figures");
        assert_eq!(found.charged(), Some(4_000));
    }

    #[test]
    fn this_process_may_use_some_but_not_more_than_there_is() {
        let limit = limit().expect("a limit");
        let machine = Meminfo::current().expect("the machine's").mem_total;
        assert!(limit > 1 << 20 && limit <= machine, "{limit} of {machine}");
        let resident = used(true).expect("a figure");
        assert!(resident > 1 << 20 && used(false).expect("a figure") >= resident / 2);
    }
}
