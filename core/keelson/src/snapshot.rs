//! `keelson snapshot`: the store's state as a file, and a new cluster made of it.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Subcommand, ValueEnum};
use futures::AsyncReadExt as _;
use jiff::Timestamp;
use keelson_apiserver::snapshots;
use keelson_store::archive::{self, RestoreOptions, Summary};
use serde_json::json;

use crate::cli::DataDir;
use crate::cluster::Folder;
use crate::connection::ClusterOptions;

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save the state of a running cluster as a file. It holds every object, Secrets as the store keeps them, and no
    /// keys or certificates: keep the folder `pki` of the data folder beside it. Only who may do anything may do this.
    Save {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// The file; one that is there is replaced when the new one is whole.
        file: PathBuf,
    },
    /// Check a file, and show what it holds.
    Status {
        /// The file.
        file: PathBuf,
        /// In which form.
        #[arg(long, short, value_enum, default_value = "table")]
        output: Output,
    },
    /// Have a server write its saved state anew, so that what was deleted gives its room back to the disk. Requests are
    /// served meanwhile. A server does so by itself when its files have grown far beyond what they hold.
    Defrag {
        #[command(flatten)]
        cluster: ClusterOptions,
    },
    /// Make a new cluster with one member of a file, in a data folder that has no store. Nothing of the old cluster can
    /// join it. Start it with `keelson server` or `keelson up`.
    Restore {
        /// The file.
        file: PathBuf,
        #[command(flatten)]
        data: DataDir,
        /// By how much the revision goes on beyond the file's, so that whoever has seen later ones of the old cluster is
        /// told to read anew.
        #[arg(long, default_value_t = RestoreOptions::default().bump_revision, value_parser = clap::value_parser!(u64).range(1..=1 << 50))]
        bump_revision: u64,
    },
}

/// How something is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs; of a snapshot with the names that etcdctl has.
    Json,
}

/// Runs the command.
pub(crate) fn run(command: SnapshotCommand) -> anyhow::Result<()> {
    match command {
        SnapshotCommand::Save { cluster, file } => crate::runtime()?.block_on(save(&cluster, &file)),
        SnapshotCommand::Defrag { cluster } => crate::runtime()?.block_on(defragment(&cluster)),
        SnapshotCommand::Status { file, output } => status(&file, output),
        SnapshotCommand::Restore { file, data, bump_revision } => restore(&file, &data, bump_revision),
    }
}

async fn save(cluster: &ClusterOptions, path: &Path) -> anyhow::Result<()> {
    let partial = PathBuf::from(format!("{}.partial", path.display()));
    let summary = match receive(cluster, &partial).await {
        Ok(()) => archive::check(&partial).context("check what was received"),
        Err(error) => Err(error),
    };
    let summary = summary.inspect_err(|_| {
        // What is there of it is of no use.
        let _ = std::fs::remove_file(&partial);
    })?;
    std::fs::rename(&partial, path).with_context(|| format!("give its name to {}", path.display()))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("flush the folder {}", dir.display()))?;
    println!(
        "Snapshot saved at {}: revision {}, {} keys, {}",
        path.display(),
        summary.head.revision,
        summary.keys,
        size(summary.bytes)
    );
    Ok(())
}

/// Writes what the server sends, piece by piece, and flushes it.
async fn receive(cluster: &ClusterOptions, path: &Path) -> anyhow::Result<()> {
    let client = kube::Client::try_from(cluster.config().await?)?;
    let request = http::Request::get(snapshots::PATH).body(Vec::new())?;
    let mut stream =
        std::pin::pin!(client.request_stream(request).await.context("ask the server for a snapshot")?);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    let mut piece = vec![0; 256 << 10];
    loop {
        let read = stream.read(&mut piece).await.context("receive the snapshot")?;
        if read == 0 {
            break;
        }
        file.write_all(&piece[..read]).with_context(|| format!("write {}", path.display()))?;
    }
    file.sync_all().with_context(|| format!("flush {}", path.display()))
}

async fn defragment(cluster: &ClusterOptions) -> anyhow::Result<()> {
    let client = kube::Client::try_from(cluster.config().await?)?;
    let request = http::Request::post(snapshots::DEFRAGMENT).body(Vec::new())?;
    client.request_text(request).await.context("ask the server to defragment its store")?;
    println!("The store has been written anew.");
    Ok(())
}

fn status(path: &Path, output: Output) -> anyhow::Result<()> {
    let summary = archive::check(path)?;
    match output {
        Output::Table => println!("{}", table(&summary)),
        Output::Json => println!("{}", document(&summary)),
    }
    Ok(())
}

/// The first four bytes of the digest, as people compare them.
fn hash(summary: &Summary) -> u32 {
    let [a, b, c, d, ..] = summary.digest;
    u32::from_be_bytes([a, b, c, d])
}

fn document(summary: &Summary) -> serde_json::Value {
    let head = &summary.head;
    json!({
        "hash": hash(summary),
        "revision": head.revision.get(),
        "totalKey": summary.keys,
        "totalSize": summary.bytes,
        "version": head.version,
        "sha256": hex::encode(summary.digest),
        "cluster": head.cluster().map(|id| id.to_string()),
        "taken": taken(summary),
    })
}

fn taken(summary: &Summary) -> String {
    Timestamp::from_second(summary.head.taken).map(|at| at.to_string()).unwrap_or_default()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

fn table(summary: &Summary) -> String {
    let head = &summary.head;
    let columns = [
        ("HASH", format!("{:x}", hash(summary))),
        ("REVISION", head.revision.to_string()),
        ("TOTAL KEYS", summary.keys.to_string()),
        ("TOTAL SIZE", size(summary.bytes)),
        ("VERSION", head.version.clone()),
        ("CLUSTER", head.cluster().map_or_else(|| "-".to_owned(), |id| id.to_string())),
        ("TAKEN", taken(summary)),
    ];
    let line = |cells: Vec<&str>| {
        let padded = columns.iter().zip(cells).map(|((name, value), cell)| {
            let width = name.len().max(value.len());
            format!("{cell:<width$}")
        });
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    let names = line(columns.iter().map(|(name, _)| *name).collect());
    format!("{names}\n{}", line(columns.iter().map(|(_, value)| value.as_str()).collect()))
}

fn restore(file: &Path, data: &DataDir, bump_revision: u64) -> anyhow::Result<()> {
    std::fs::create_dir_all(&data.data_dir).with_context(|| format!("create {}", data.data_dir.display()))?;
    let folder = Folder::new(&data.data_dir)?;
    let _lock = match folder.lock()? {
        Ok(lock) => lock,
        Err(holder) => {
            let process = holder.0.map(|pid| format!(" (process {pid})")).unwrap_or_default();
            bail!("a cluster runs in {}{process}: stop it first", folder.path().display());
        }
    };
    let store = folder.join("store");
    let restored = archive::restore(file, &store, RestoreOptions { bump_revision })?;
    let archive = &restored.archive;
    println!(
        "Restored {} keys of revision {} into {}.",
        archive.keys,
        archive.head.revision,
        store.display()
    );
    println!("  New cluster {}, with one member, {}.", restored.cluster, restored.member);
    println!(
        "  Its revision goes on from {}: whoever followed the old cluster reads everything anew.",
        restored.revision
    );
    if folder.join("pki").join("ca.crt").exists() {
        println!(
            "  It goes on with the keys in {}: kubeconfigs and tokens stay good.",
            folder.join("pki").display()
        );
    } else {
        println!(
            "  A snapshot has no keys. Copy the old `pki` to {} before the first start; with new keys, kubeconfigs,",
            folder.join("pki").display()
        );
        println!("  nodes' certificates and service accounts' tokens of the old cluster are worth nothing.");
    }
    println!("  If objects were encrypted, give the same --encryption-provider-config.");
    println!("Next: keelson server --data-dir {}", folder.path().display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use keelson_store::Revision;
    use keelson_store::archive::Head;

    use super::*;

    fn summary() -> Summary {
        let head = Head {
            cluster: Some(0xab),
            member: None,
            revision: Revision::new(42),
            taken: 0,
            version: "v1.36.0".to_owned(),
        };
        Summary { head, keys: 7, bytes: 1_234_567, digest: [0xfe; 32] }
    }

    #[test]
    fn a_snapshot_is_shown_with_etcdctls_columns_first() {
        let expected = "\
HASH       REVISION   TOTAL KEYS   TOTAL SIZE   VERSION   CLUSTER            TAKEN
fefefefe   42         7            1.2 MB       v1.36.0   00000000000000ab   1970-01-01T00:00:00Z";
        assert_eq!(table(&summary()), expected);
        let document = document(&summary());
        assert_eq!(document["totalKey"], 7);
        assert_eq!(document["hash"], 0xfefe_fefe_u32);
    }
}
