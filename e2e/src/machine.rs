//! systemd as the init of a cluster's machine: the real one, as process 1 of namespaces of its own.
//!
//! It has control groups of its own too, right below those of the machine that runs the tests, whose init it never sees.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::kubectl::text;
use crate::{Kubectl, eventually};

/// Makes control groups, and a systemd that sees nothing but them; ends all of it when the input ends. `$0` is their name, and
/// `$1` the script that process 1 begins with.
const KEEPER: &str = r#"
set -e; trap '' HUP INT TERM
groups() {
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo /sys/fs/cgroup/$1; return; fi
  for root in /sys/fs/cgroup/*; do [ -h $root ] || [ ! -e $root/cgroup.procs ] || echo $root/$1; done
}
for group in $(groups $0); do
  mkdir $group
  for file in cpuset.cpus cpuset.mems; do
    [ ! -e $group/../$file ] || cat $group/../$file > $group/$file
  done
done
sh -c 'for group in $2; do echo $$ > $group/cgroup.procs; done
  exec unshare --cgroup --mount --uts --pid --fork --kill-child --propagation private sh -c "$1"' $0 "$1" "$(groups $0)" < /dev/null >&2 &
child=$!
echo $child
cat > /dev/null
set +e
kill -9 $child; wait $child
for again in 1 2 3 4 5 6 7 8 9 10; do
  # What ends in them takes a moment.
  for group in $(groups $0); do [ ! -d $group ] || find $group -depth -type d -exec rmdir {} + ; done 2> /dev/null
  left=; for group in $(groups $0); do [ ! -d $group ] || left=$group; done
  [ -n "$left" ] || exit 0
  sleep 0.2
done
echo "left: $left" >&2
"#;

/// The machine as its init finds it: its processes, its control groups, and no unit but those that the init has itself and the bus.
const BOOT: &str = r"
set -e
mount -t proc proc /proc
# What is of the whole machine stays as it is.
for folder in fs kernel vm; do
  mount --bind /proc/sys/$folder /proc/sys/$folder
  mount -o remount,bind,ro /proc/sys/$folder
done
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  cd /sys/fs/cgroup
  all=$(find . -mindepth 1 -maxdepth 1 -type d -printf '%f\n')
  links=$(find . -mindepth 1 -maxdepth 1 -type l -printf '%l:%f\n')
  cd /
  mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
  for name in $all; do
    mkdir /sys/fs/cgroup/$name
    case $name in
      unified) mount -t cgroup2 cgroup2 /sys/fs/cgroup/$name;;
      systemd) mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/$name;;
      *) mount -t cgroup -o $name cgroup /sys/fs/cgroup/$name;;
    esac
  done
  for link in $links; do ln -s ${link%:*} /sys/fs/cgroup/${link#*:}; done
fi
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs units /etc/systemd/system
mkdir -p /run/systemd/system
cd /run/systemd/system
cat > ready.target << END
[Unit]
DefaultDependencies=no
Wants=dbus.socket dbus.service
After=dbus.socket dbus.service
END
cat > dbus.socket << END
[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/dbus/system_bus_socket
END
cat > dbus.service << END
[Unit]
DefaultDependencies=no
Requires=dbus.socket
[Service]
ExecStart=/usr/bin/dbus-daemon --config-file=/run/bus.conf --address=systemd: --nofork --nopidfile
END
cat > /run/bus.conf << END
<busconfig>
<listen>systemd:</listen>
<policy context='default'><allow own='*'/><allow send_destination='*'/><allow eavesdrop='true'/></policy>
</busconfig>
END
cd /
exec env -i container=keelson PATH=$PATH /lib/systemd/systemd --system --unit=ready.target --show-status=no --log-target=console --log-level=warning
";

/// A systemd, which ends with the value, and with it all that it has started.
#[derive(Debug)]
pub(crate) struct Machine {
    /// It ends when its input does.
    keeper: Child,
    name: String,
}

impl Machine {
    /// Starts it where kubectl is run, and has that run in its namespaces from then on, each command in a scope.
    pub(crate) fn start(kubectl: &mut Kubectl) -> anyhow::Result<Self> {
        ensure!(Path::new("/lib/systemd/systemd").exists(), "there is no systemd: install it");
        let name = format!("keelson-e2e-{}", kubectl.home.file_name().unwrap_or_default().to_string_lossy());
        let name = name.replace('.', "");
        let mut keeper = kubectl.program("sh");
        keeper.args(["-c", KEEPER, &name, BOOT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = keeper.spawn().context("start systemd")?;
        let output = keeper.stdout.take().context("the keeper has no output")?;
        let machine = Machine { keeper, name };
        let child = std::io::BufRead::lines(std::io::BufReader::new(output)).next();
        let child = child.context("control groups cannot be made")??;
        // Whom it starts first may be somebody on the way there.
        eventually("systemd to be ready", Duration::from_secs(60), || {
            let children = fs::read_to_string(format!("/proc/{child}/task/{child}/children"))?;
            let Some(init) = children.split_whitespace().next() else { return Ok(None) };
            let words = ["nsenter", "--net", "--mount", "--uts", "--pid", "--cgroup", "--target", init];
            kubectl.prefix = words.map(str::to_owned).to_vec();
            let mut asked = kubectl.program("systemctl");
            let answer = asked.args(["is-active", "ready.target"]).output()?;
            ensure!(answer.status.success(), "{}", text(&answer));
            Ok(Some(()))
        })?;
        kubectl.prefix.extend(["systemd-run", "--scope", "--quiet"].map(str::to_owned));
        Ok(machine)
    }

    /// The groups of this machine, as those of the other one see them: below this name in every hierarchy.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // It ends systemd, and then itself.
        let _ = self.keeper.wait();
    }
}
