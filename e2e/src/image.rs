//! Images for tests.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// Programs of busybox that tests use.
const PROGRAMS: [&str; 32] = [
    "sh", "cat", "ls", "sleep", "echo", "env", "id", "hostname", "ps", "kill", "true", "false", "wget", "nc",
    "nslookup", "httpd", "mkdir", "touch", "test", "grep", "stat", "readlink", "head", "tail", "date", "dd",
    "ip", "tty", "stty", "wc", "tar", "rm",
];

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// `files` are put beside busybox, or instead of what is there, with their contents.
fn layer(files: &[(&str, &str)]) -> anyhow::Result<Vec<u8>> {
    let mut busybox = Vec::new();
    let mut file =
        File::open("/bin/busybox").context("open /bin/busybox: install Debian's busybox-static")?;
    file.read_to_end(&mut busybox)?;
    let mut tar = tar::Builder::new(Vec::new());
    for (folder, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("home", 0o777)]
    {
        tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), folder, &[][..])?;
    }
    let size = u64::try_from(busybox.len())?;
    tar.append_data(&mut header(tar::EntryType::Regular, 0o755, size), "bin/busybox", &busybox[..])?;
    for program in PROGRAMS {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut link, format!("bin/{program}"), "busybox")?;
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    let own = |path: &str| files.iter().any(|(own, _)| *own == path);
    let base = [("etc/passwd", users)];
    for (path, content) in base.iter().filter(|(path, _)| !own(path)).chain(files) {
        let mut header = header(tar::EntryType::Regular, 0o644, u64::try_from(content.len())?);
        tar.append_data(&mut header, path, content.as_bytes())?;
    }
    Ok(tar.into_inner()?)
}

/// Writes an archive, as `docker save` does, of an image with busybox.
pub fn busybox(archive: &Path, name: &str) -> anyhow::Result<()> {
    busybox_running(archive, name, &["sh"])
}

/// The same with another command.
pub fn busybox_running(archive: &Path, name: &str, command: &[&str]) -> anyhow::Result<()> {
    busybox_with(archive, name, &json!({ "Cmd": command }), &[])
}

/// The same with what the image says of its containers, as `{"User": "web"}`, and with files of its own.
pub fn busybox_with(archive: &Path, name: &str, says: &Value, files: &[(&str, &str)]) -> anyhow::Result<()> {
    let layer = layer(files)?;
    let mut config = json!({ "Env": ["PATH=/bin"], "WorkingDir": "/" });
    for (key, value) in says.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let hash: String = digest(&SHA256, &layer).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{hash}")]},
    }))?;
    let manifest = serde_json::to_vec(&json!([
        {"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}
    ]))?;
    let mut tar = tar::Builder::new(File::create(archive)?);
    for (path, content) in [("manifest.json", &manifest), ("config.json", &config), ("layer.tar", &layer)] {
        let size = u64::try_from(content.len())?;
        tar.append_data(&mut header(tar::EntryType::Regular, 0o644, size), path, &content[..])?;
    }
    tar.into_inner()?.sync_all()?;
    Ok(())
}
