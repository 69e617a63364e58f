//! How much memory the process may use, so that an alarm can compare what it does use with something.

use std::fs::read_to_string;
use std::path::Path;

use procfs::ProcessCGroup;
use procfs::process::Process;
use procfs::{Current, Meminfo};

/// In bytes: the least of the limits of its control groups and what the machine has. A container's limit, Kubernetes' and
/// systemd's are control groups' limits. None where neither can be read.
pub(super) fn limit() -> Option<u64> {
    let machine = Meminfo::current().ok().map(|memory| memory.mem_total);
    let groups = Process::myself().and_then(|process| process.cgroups());
    let groups = groups.map(|groups| groups.0).unwrap_or_default();
    least(Path::new("/sys/fs/cgroup"), &groups).into_iter().chain(machine).min()
}

/// The least limit of these groups and of those that they are in.
fn least(mounted: &Path, groups: &[ProcessCGroup]) -> Option<u64> {
    let limits = groups.iter().flat_map(|group| {
        let (root, file) = if group.hierarchy == 0 {
            (mounted.to_path_buf(), "memory.max")
        } else if group.controllers.iter().any(|controller| controller == "memory") {
            (mounted.join("memory"), "memory.limit_in_bytes")
        } else {
            return Vec::new();
        };
        // Inside a container the path may be one of the host's, which is not there: its root is the group then.
        let path = root.join(group.pathname.trim_start_matches('/'));
        let known = path.ancestors().take_while(|directory| directory.starts_with(&root));
        known.filter_map(|directory| read_to_string(directory.join(file)).ok()).collect()
    });
    // No limit is "max" in version 2 and a number beyond any machine's memory in version 1.
    limits.filter_map(|limit| limit.trim().parse().ok()).min()
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
        assert_eq!(limited, Some(1 << 30));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let mounted = tempfile::TempDir::new().expect("a directory");
        write(mounted.path().join("memory.max"), "536870912\n").expect("a limit");
        assert_eq!(least(mounted.path(), &[group(0, &[], "/")]), Some(512 << 20));
        create_dir_all(mounted.path().join("memory")).expect("a hierarchy");
        write(mounted.path().join("memory/memory.limit_in_bytes"), "268435456\n").expect("a limit");
        let groups = [group(4, &["memory"], "/docker/0123"), group(3, &["cpu"], "/docker/0123")];
        assert_eq!(least(mounted.path(), &groups), Some(256 << 20));
    }

    #[test]
    fn this_process_may_use_some_but_not_more_than_there_is() {
        let limit = limit().expect("a limit");
        let machine = Meminfo::current().expect("the machine's").mem_total;
        assert!(limit > 1 << 20 && limit <= machine, "{limit} of {machine}");
    }
}
