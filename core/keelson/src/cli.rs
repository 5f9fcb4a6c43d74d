//! Flags and commands.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

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
    /// Run a control-plane member: the API server on its durable store.
    Server(ServerOptions),
    /// Look after the container images below a data folder.
    #[command(subcommand)]
    Image(ImageCommand),
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
pub(crate) struct ServerOptions {
    #[command(flatten)]
    pub(crate) data: DataDir,
    /// Where the API server listens.
    #[arg(long, default_value = "127.0.0.1:6443")]
    pub(crate) bind: SocketAddr,
    /// A further name or address of the serving certificate; may be given several times.
    #[arg(long = "tls-san")]
    pub(crate) tls_sans: Vec<String>,
    /// The addresses of Services.
    #[arg(long, default_value = "10.96.0.0/16")]
    pub(crate) service_cidr: ipnet::Ipv4Net,
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
