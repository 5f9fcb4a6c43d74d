//! Flags and commands.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::api_server_options::ApiServerOptions;
use crate::cluster::Profile;
use crate::components::kubelet_options::KubeletOptions;

/// Kubernetes, rebuilt: one binary that is the whole cluster.
#[derive(Debug, Parser)]
#[command(name = "keelson", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Log more.
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make or continue a cluster on this machine: control plane, node, and the profile's operators.
    Up(UpOptions),
    /// Stop the cluster and its pods; what it knows is kept for the next `up`.
    Down(DataDir),
    /// Remove the cluster with everything that belongs to it: pods, networks, data.
    Reset(DataDir),
    /// Run a control-plane member: API server, store, scheduler and operators. Several of them are one cluster.
    Server(ServerOptions),
    /// Show and change which servers are members of the cluster.
    #[command(subcommand)]
    Members(crate::members::MembersCommand),
    /// Make this machine a node of a cluster whose servers are elsewhere.
    Agent(crate::agent::AgentOptions),
    /// Make, list and delete the tokens that machines join the cluster with.
    #[command(subcommand)]
    Token(crate::token::TokenCommand),
    /// Save the store's state as a file, look at such a file, and make a new cluster of one.
    #[command(subcommand)]
    Snapshot(crate::snapshot::SnapshotCommand),
    /// Look after the container images below a data folder.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Serve a small web page about this process; made to try a cluster with.
    DemoWeb(DemoWebOptions),
    /// Print the version.
    Version,
}

/// Where everything lies.
#[derive(Clone, Debug, Args)]
pub(crate) struct DataDir {
    /// The folder that everything is kept below.
    #[arg(long, env = "KEELSON_DATA_DIR", default_value = "/var/lib/keelson")]
    pub(crate) data_dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct UpOptions {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Return when the cluster is ready, and let it run in the background.
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Which operators a new cluster begins with; those of a further profile are added to an existing one.
    #[arg(long, value_enum)]
    pub(crate) profile: Option<Profile>,
    /// The API server's port; kept for later starts. A new cluster takes the next free one after 6443 where another
    /// cluster of this machine has it.
    #[arg(long)]
    pub(crate) api_port: Option<u16>,
    /// The kubelet's port; as above, after 10250.
    #[arg(long)]
    pub(crate) kubelet_port: Option<u16>,
    /// The name of this machine's Node, chosen once; the host name otherwise.
    #[arg(long)]
    pub(crate) node_name: Option<String>,
    /// The address at which other machines reach this one; kept for later starts. Otherwise the one from which it reaches
    /// other networks.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) node_ip: Option<IpAddr>,
    #[command(flatten)]
    pub(crate) kubelet: KubeletOptions,
    #[command(flatten)]
    pub(crate) api_server: ApiServerOptions,
    /// Already in the background: standard output ends when the cluster is ready.
    #[arg(long, hide = true)]
    pub(crate) in_background: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DemoWebOptions {
    /// Where to listen.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub(crate) port: u16,
}

#[derive(Debug, Args)]
pub(crate) struct ServerOptions {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Where the API server listens.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub(crate) bind: SocketAddr,
    /// A further name or address of the serving certificate; may be given several times.
    #[arg(long = "tls-san")]
    pub(crate) tls_sans: Vec<String>,
    /// The address at which pods, nodes and other servers reach this one; that of --bind otherwise.
    #[arg(long)]
    pub(crate) advertise_address: Option<IpAddr>,
    /// Join the cluster of this server instead of making a new one: `https://HOST:6443`. Of no effect for one that is
    /// a member already.
    #[arg(long, value_name = "URL")]
    pub(crate) server: Option<String>,
    /// What to join with, as `keelson token create --role server` prints it, or `@FILE`.
    #[arg(long, env = "KEELSON_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The name of this server among the members of the store; the host name otherwise.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Where it listens for the other members. Without it, it listens on port 2380 of the address of --bind, or not at
    /// all where that is a loopback address.
    #[arg(long)]
    pub(crate) peer_listen: Option<SocketAddr>,
    /// Which operators a new cluster begins with [default: default].
    #[arg(long, value_enum)]
    pub(crate) profile: Option<Profile>,
    /// The addresses of Services, chosen when a cluster is made [default: 10.96.0.0/16].
    #[arg(long)]
    pub(crate) service_cidr: Option<ipnet::Ipv4Net>,
    /// The addresses of pods, chosen when a cluster is made [default: 10.42.0.0/16].
    #[arg(long)]
    pub(crate) cluster_cidr: Option<ipnet::Ipv4Net>,
    #[command(flatten)]
    pub(crate) api_server: ApiServerOptions,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Take images from a file or folder: an OCI layout, or what `docker save` writes.
    Import {
        #[command(flatten)]
        data: DataDir,
        /// The file or folder.
        file: PathBuf,
        /// The name to give, where the file holds one image without a name.
        #[arg(long)]
        name: Option<String>,
    },
    /// List the images.
    List {
        #[command(flatten)]
        data: DataDir,
    },
    /// Get an image from its registry; the node has to be running.
    Pull {
        #[command(flatten)]
        data: DataDir,
        /// Its name.
        name: String,
        /// The user for the registry; the password is read from standard input.
        #[arg(long)]
        user: Option<String>,
    },
    /// Remove an image with all its names; the node has to be running. Containers that run keep what they stand on.
    Remove {
        #[command(flatten)]
        data: DataDir,
        /// Its name or identifier.
        name: String,
    },
    /// Write an image as an OCI layout.
    Export {
        #[command(flatten)]
        data: DataDir,
        /// Its name.
        name: String,
        /// The file to write.
        file: PathBuf,
    },
}
