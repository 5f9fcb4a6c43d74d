//! What is there for pods on a cluster's machine.

use std::fs;

use crate::Cluster;

impl Cluster {
    /// The control groups, processes, mounts and folders that are there for pods, by the UIDs of these.
    pub fn traces(&self, uids: &[String]) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.holder()))?;
        found.extend(
            mounts.lines().filter(|line| uids.iter().any(|uid| line.contains(uid))).map(str::to_owned),
        );
        for folder in ["pods", "logs/pods", "kubelet/pods"] {
            let entries = fs::read_dir(self.data_dir().join(folder)).into_iter().flatten().flatten();
            let paths = entries.map(|entry| entry.path().display().to_string());
            found.extend(paths.filter(|path| uids.iter().any(|uid| path.contains(uid))));
        }
        let processes = fs::read_dir("/proc")?.flatten();
        for process in processes {
            let group = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
            let named = |uid: &String| group.contains(uid.as_str()) || group.contains(&uid.replace('-', "_"));
            if uids.iter().any(named) {
                found.push(process.path().display().to_string());
            }
        }
        // Folders come and go meanwhile.
        let all = ["/sys/fs/cgroup", "-ignore_readdir_race", "-type", "d", "-name", "*pod*"];
        let groups = self.on_the_host("find", &all)?;
        found.extend(
            groups.lines().filter(|group| uids.iter().any(|uid| group.contains(uid))).map(str::to_owned),
        );
        Ok(found)
    }

    /// How many interfaces it has that have another end, as those to pods.
    pub fn interfaces(&self) -> anyhow::Result<usize> {
        let links = self.on_the_host("busybox", &["ip", "link"])?;
        Ok(links.lines().filter(|line| line.contains("mtu") && line.contains("@")).count())
    }
}
