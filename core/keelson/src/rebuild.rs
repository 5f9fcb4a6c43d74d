//! `keelson members rebuild`: a member whose store is damaged is made again from the others.

use clap::Args;
use keelson_store::rebuild::{RebuildError, set_aside};

use crate::cli::DataDir;

#[derive(Debug, Args)]
pub(crate) struct RebuildOptions {
    #[command(flatten)]
    data: DataDir,
    /// There are other members, although what is left of the store does not tell.
    #[arg(long)]
    force: bool,
}

/// Moves the store aside, and says what comes next.
pub(crate) fn run(options: &RebuildOptions) -> anyhow::Result<()> {
    let dir = &options.data.data_dir;
    let store = dir.join("store");
    let aside = set_aside(&store, options.force).map_err(|error| {
        let store = store.display();
        let next = match &error {
            RebuildError::Alone => format!(
                "if others have joined since, give --force; only if none has: move {store} away and run \
                 `keelson snapshot restore FILE --data-dir {}`",
                dir.display()
            ),
            RebuildError::Unknown => {
                "give --force if it has; restore a snapshot with `keelson snapshot restore` \
                                      if it has none"
                    .to_owned()
            }
            RebuildError::Missing(_) => "give the server's folder with --data-dir".to_owned(),
            RebuildError::InUse(_) | RebuildError::Io { .. } => "nothing was changed".to_owned(),
        };
        anyhow::anyhow!("{error}; {next}")
    })?;
    println!("The damaged store is now {}; remove it when nobody wants to look at it.", aside.path.display());
    if !aside.members.is_empty() {
        println!("It knew these members: {}.", aside.members.join(", "));
    }
    println!("Next, at another server:  keelson members remove NAME-OF-THIS-SERVER");
    println!("                          keelson token create --role server");
    println!(
        "and then here:            keelson server --data-dir {} --server https://OTHER:6443 --token TOKEN",
        dir.display()
    );
    Ok(())
}
