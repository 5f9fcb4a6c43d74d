//! Who holds a port.

use std::fs;

const LISTEN: &str = "0A";

/// The inodes of sockets that listen on a TCP port, in the text of `/proc/net/tcp` or `/proc/net/tcp6`.
fn listeners(text: &str, port: u16) -> Vec<String> {
    let wanted = format!("{port:04X}");
    let mut found = Vec::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (Some(local), Some(state), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else {
            continue;
        };
        if local.rsplit(':').next() == Some(&wanted) && *state == LISTEN {
            found.push(format!("socket:[{inode}]"));
        }
    }
    found
}

/// `NAME (process ID)` of the process that listens on a TCP port, as far as it can be seen.
pub(crate) fn holder(port: u16) -> Option<String> {
    let mut sockets = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        sockets.extend(listeners(&fs::read_to_string(file).unwrap_or_default(), port));
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            if sockets.iter().any(|socket| target.as_os_str() == socket.as_str()) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{} (process {pid})", name.trim()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = holder(listener.local_addr().unwrap().port()).unwrap();
        assert!(found.ends_with(&format!("(process {})", std::process::id())), "{found}");
    }
}
