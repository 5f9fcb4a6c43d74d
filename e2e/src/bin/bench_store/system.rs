//! What is measured: servers of one kind, each on a machine of its own, and the way to them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use keelson_e2e::measure::processor_time;
use keelson_e2e::{LONG, Servers, eventually};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::{Client, Target};
use crate::{api, etcd};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The API server with the store that is in it.
    Keelson,
    /// The same API server, and an etcd beside each.
    OnEtcd,
    /// etcd alone.
    Etcd,
}

impl Kind {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Kind::Keelson => "Keelson",
            Kind::OnEtcd => "Keelson on etcd",
            Kind::Etcd => "etcd",
        }
    }
}

/// Servers of one kind that are one cluster. All of it goes with the value.
pub(crate) struct System {
    kind: Kind,
    /// The members on the machines of the same numbers.
    etcd: Vec<Option<etcd::Member>>,
    machines: Servers,
}

/// Does something asynchronous on the network of machines, in a thread of its own.
pub(crate) fn on_the_network<T: Send, F: Future<Output = anyhow::Result<T>>>(
    namespace: PathBuf,
    work: impl FnOnce() -> F + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || -> anyhow::Result<T> {
            setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work())
        });
        thread.join().map_err(|_panic| anyhow::anyhow!("the clients' thread panicked"))?
    })
}

impl System {
    /// So many servers, all of which answer.
    pub(crate) fn start(kind: Kind, count: usize, folder: &Path) -> anyhow::Result<Self> {
        let machines = Servers::network_in(folder)?;
        let mut system = System { kind, etcd: Vec::new(), machines };
        match kind {
            Kind::Keelson => {
                system.machines.add_machine()?;
                system.run_server(0, &[])?;
                for _ in 1..count {
                    system.join()?;
                }
            }
            Kind::OnEtcd => {
                system.start_etcd(count)?;
                for number in 0..count {
                    if number > 0 {
                        system.share_keys(number)?;
                    }
                    system.run_server(number, &[])?;
                }
            }
            Kind::Etcd => system.start_etcd(count)?,
        }
        let targets = system.targets()?;
        on_the_network(system.network(), || async move {
            for target in &targets {
                target.answers(0, LONG).await?;
            }
            match targets[0].connect().await? {
                Client::Api(mut api) => api.prepare().await,
                Client::Etcd(_) | Client::Store(_) => Ok(()),
            }
        })?;
        Ok(system)
    }

    fn start_etcd(&mut self, count: usize) -> anyhow::Result<()> {
        for _ in 0..count {
            self.machines.add_machine()?;
        }
        for number in 0..count {
            self.etcd.push(Some(etcd::Member::start(&self.machines, number, count, "new")?));
        }
        let urls: Vec<String> = (0..count).map(|number| etcd::url(&self.machines, number)).collect();
        on_the_network(self.network(), || async move {
            for url in urls {
                Target::Etcd(url).answers(0, LONG).await?;
            }
            Ok(())
        })
    }

    /// Gives an API server the authority of the first, which is what makes servers on one etcd a cluster.
    fn share_keys(&self, number: usize) -> anyhow::Result<()> {
        let (first, own) = (self.machines.folder_in(0), self.machines.folder_in(number));
        let copied = Command::new("cp")
            .arg("-r")
            .args(["pki", "server.json"].map(|name| first.join(name)))
            .arg(&own)
            .status()
            .context("run cp")?;
        ensure!(copied.success(), "the keys cannot be copied");
        for name in ["apiserver.crt", "apiserver.key"] {
            std::fs::remove_file(own.join("pki").join(name))?;
        }
        Ok(())
    }

    fn run_server(&mut self, number: usize, flags: &[&str]) -> anyhow::Result<()> {
        let quota = format!("--quota-backend-bytes={}", etcd::QUOTA_BYTES);
        let mut all = vec![quota.as_str()];
        // Each asks the etcd on its own machine first.
        let mut order: Vec<usize> = (0..self.etcd.len()).collect();
        order.sort_by_key(|other| *other != number);
        let urls: Vec<String> = order.iter().map(|other| etcd::url(&self.machines, *other)).collect();
        let servers = format!("--etcd-servers={}", urls.join(","));
        if self.kind == Kind::OnEtcd {
            all.extend(["--store=etcd", &servers]);
        }
        all.extend(flags);
        self.machines.run(number, &all)
    }

    /// One more member, from its start until it votes; says how long that took, from the command that starts it.
    pub(crate) fn join(&mut self) -> anyhow::Result<Duration> {
        match self.kind {
            Kind::Keelson | Kind::OnEtcd => self.join_keelson(),
            Kind::Etcd => self.join_etcd(),
        }
    }

    fn join_keelson(&mut self) -> anyhow::Result<Duration> {
        let token = self.machines.keelson(0, &["token", "create", "--quiet", "--role", "server"])?;
        let number = self.machines.add_machine()?;
        let since = Instant::now();
        self.run_server(number, &["--server", &self.machines.url(0), "--token", token.trim()])?;
        let voter = (Servers::name(number), "voter".to_owned());
        let machines = &self.machines;
        eventually("the server to vote", LONG * 5, || Ok(machines.roles(0)?.contains(&voter).then_some(())))?;
        Ok(since.elapsed())
    }

    fn join_etcd(&mut self) -> anyhow::Result<Duration> {
        let (asked, number) = (self.running(), self.machines.add_machine()?);
        let mut since = Instant::now();
        // A cluster takes no other member within seconds of the last one, which is not counted.
        let id = eventually("the cluster to take a member", LONG, || {
            since = Instant::now();
            etcd::add_learner(&self.machines, &asked, number).map(Some)
        })?;
        self.etcd.push(Some(etcd::Member::start(&self.machines, number, number + 1, "existing")?));
        let machines = &self.machines;
        eventually("the member to vote", LONG * 5, || etcd::promote(machines, &asked, id))?;
        Ok(since.elapsed())
    }

    /// The numbers of the servers that run.
    pub(crate) fn running(&self) -> Vec<usize> {
        match self.kind {
            Kind::Keelson | Kind::OnEtcd => self.machines.running(),
            Kind::Etcd => (0..self.etcd.len()).filter(|number| self.etcd[*number].is_some()).collect(),
        }
    }

    /// The number of the one that leads.
    pub(crate) fn leader(&self) -> anyhow::Result<usize> {
        let running = self.running();
        match self.kind {
            Kind::Keelson => {
                let asked = running.first().copied().context("no server runs")?;
                eventually("a leader", LONG, || self.machines.leader(asked).map(Some))
            }
            Kind::OnEtcd | Kind::Etcd => {
                eventually("a leader", LONG, || etcd::leader(&self.machines, &running))
            }
        }
    }

    /// The namespace of the network that the servers are on.
    pub(crate) fn network(&self) -> PathBuf {
        self.machines.network_namespace()
    }

    /// Where each server is asked, whether it runs or not.
    pub(crate) fn targets(&self) -> anyhow::Result<Vec<Target>> {
        let count = if self.etcd.is_empty() { self.machines.running().len() } else { self.etcd.len() };
        (0..count).map(|number| self.target(number)).collect()
    }

    pub(crate) fn target(&self, number: usize) -> anyhow::Result<Target> {
        Ok(match self.kind {
            Kind::Keelson | Kind::OnEtcd => {
                let kubeconfig = self.machines.kubeconfig(number);
                Target::Api(api::Target::of(&kubeconfig, &self.machines.address(number))?)
            }
            Kind::Etcd => Target::Etcd(etcd::url(&self.machines, number)),
        })
    }

    /// The process of a server.
    pub(crate) fn process(&self, number: usize) -> anyhow::Result<Pid> {
        match self.kind {
            Kind::Keelson | Kind::OnEtcd => self.machines.process(number),
            Kind::Etcd => self.etcd[number].as_ref().context("the member does not run")?.process(),
        }
    }

    /// The processor time that all servers, and their etcds, have used.
    pub(crate) fn processor_time(&self) -> anyhow::Result<Duration> {
        let mut sum = Duration::ZERO;
        for number in self.machines.running() {
            sum += processor_time(self.machines.process(number)?);
        }
        for member in self.etcd.iter().flatten() {
            sum += processor_time(member.process()?);
        }
        Ok(sum)
    }

    /// The folder of a server's state.
    pub(crate) fn folder(&self, number: usize) -> PathBuf {
        match self.kind {
            Kind::Keelson => self.machines.folder_in(number).join("store"),
            Kind::OnEtcd | Kind::Etcd => etcd::folder_in(&self.machines, number),
        }
    }

    /// Kills a process of a server without warning; [`System::bury`] has to follow.
    pub(crate) fn kill(process: Pid) -> anyhow::Result<()> {
        kill(process, Signal::SIGKILL).context("kill a server")
    }

    /// Takes notice of a server that was killed.
    pub(crate) fn bury(&mut self, number: usize) -> anyhow::Result<()> {
        match self.kind {
            Kind::Keelson | Kind::OnEtcd => self.machines.kill(number),
            Kind::Etcd => {
                self.etcd[number] = None;
                Ok(())
            }
        }
    }

    /// Starts a server again that was killed; etcd may not answer yet.
    pub(crate) fn start_again(&mut self, number: usize) -> anyhow::Result<()> {
        match self.kind {
            Kind::Keelson | Kind::OnEtcd => self.run_server(number, &[]),
            Kind::Etcd => {
                let count = self.etcd.len();
                self.etcd[number] = Some(etcd::Member::start(&self.machines, number, count, "new")?);
                Ok(())
            }
        }
    }
}
