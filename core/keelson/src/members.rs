//! `keelson members`: which servers are members of the cluster.

use anyhow::{Context, bail};
use clap::Subcommand;
use http::Request;
use keelson_apiserver::control_plane::{MemberList, PREFIX};
use keelson_store::{MemberStatus, Role};
use kube::Client;

use crate::connection::ClusterOptions;
use crate::snapshot::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum MembersCommand {
    /// Show the members, as the leader sees them.
    List {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// How they are shown.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Remove a member; its server ends. Refused if the others could not go on.
    Remove {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// Its name or id.
        member: String,
    },
    /// Make a learner that has caught up a voter.
    Promote {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// Its name or id.
        member: String,
    },
    /// Make a member whose store is damaged again from the others: its store is moved aside, and it joins anew. Its server
    /// does not run meanwhile. It needs no cluster that answers.
    Rebuild(crate::rebuild::RebuildOptions),
    /// Let another member lead.
    Lead {
        #[command(flatten)]
        cluster: ClusterOptions,
        /// Its name or id.
        member: String,
    },
}

/// Runs the command.
pub(crate) async fn run(command: MembersCommand) -> anyhow::Result<()> {
    match command {
        MembersCommand::List { cluster, output } => {
            let list = list(&client(&cluster).await?).await?;
            match output {
                Output::Table => print!("{}", table(&list.members)),
                Output::Json => println!("{}", serde_json::to_string_pretty(&list)?),
            }
            Ok(())
        }
        MembersCommand::Remove { cluster, member } => {
            let member = change(&cluster, "DELETE", &member, "").await?;
            println!("{} ({}) is no longer a member", member.name, member.id);
            println!("its data folder is of no further use; with an empty one, the machine can join again");
            Ok(())
        }
        MembersCommand::Promote { cluster, member } => {
            let member = change(&cluster, "POST", &member, "/promote").await?;
            println!("{} ({}) votes", member.name, member.id);
            Ok(())
        }
        MembersCommand::Rebuild(options) => crate::rebuild::run(&options),
        MembersCommand::Lead { cluster, member } => {
            let member = change(&cluster, "POST", &member, "/lead").await?;
            println!("{} ({}) leads", member.name, member.id);
            Ok(())
        }
    }
}

async fn client(cluster: &ClusterOptions) -> anyhow::Result<Client> {
    Ok(Client::try_from(cluster.config().await?)?)
}

async fn list(client: &Client) -> anyhow::Result<MemberList> {
    let request = Request::get(format!("{PREFIX}members")).body(Vec::new())?;
    let mut list: MemberList = client.request(request).await.context("list the members")?;
    list.members.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(list)
}

/// The member that a name or an id means.
fn find(members: Vec<MemberStatus>, wanted: &str) -> anyhow::Result<MemberStatus> {
    let mut names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    names.sort();
    let found = members.into_iter().find(|member| member.name == wanted || member.id.to_string() == wanted);
    match found {
        Some(member) => Ok(member),
        None => bail!("there is no member {wanted:?}; there are {}", names.join(", ")),
    }
}

async fn change(
    cluster: &ClusterOptions,
    method: &str,
    wanted: &str,
    what: &str,
) -> anyhow::Result<MemberStatus> {
    let client = client(cluster).await?;
    let member = find(list(&client).await?.members, wanted)?;
    let path = format!("{PREFIX}members/{}{what}", member.id);
    let request = Request::builder().method(method).uri(path).body(Vec::new())?;
    match client.request::<serde_json::Value>(request).await {
        Ok(_) => Ok(member),
        Err(kube::Error::Api(status)) => bail!("{}", status.message),
        Err(error) => Err(error.into()),
    }
}

fn table(members: &[MemberStatus]) -> String {
    let mut rows = vec![["NAME", "ID", "ROLE", "STATUS", "LAG", "ADDRESSES"].map(str::to_owned)];
    rows.extend(members.iter().map(|member| {
        let role = match (member.leader, member.role) {
            (true, _) => "leader",
            (false, Role::Voter) => "voter",
            (false, Role::Learner) => "learner",
        };
        [
            member.name.clone(),
            member.id.to_string(),
            role.to_owned(),
            if member.healthy { "Healthy" } else { "Unreachable" }.to_owned(),
            member.lag.to_string(),
            member.addresses.join(","),
        ]
    }));
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count() + 3);
        }
    }
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            format!("{}\n", cells.collect::<String>().trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_shown_in_columns_and_found_by_name_or_id() {
        let member = |name: &str, id: u64, leader| MemberStatus {
            id: keelson_store::MemberId(id),
            name: name.to_owned(),
            addresses: vec!["10.0.0.1:2380".to_owned()],
            role: Role::Voter,
            leader,
            matched: Some(7),
            lag: 0,
            healthy: true,
        };
        let members = vec![member("a", 1, true), member("second", 0xab, false)];
        assert_eq!(
            table(&members),
            "NAME     ID                 ROLE     STATUS    LAG   ADDRESSES\n\
             a        0000000000000001   leader   Healthy   0     10.0.0.1:2380\n\
             second   00000000000000ab   voter    Healthy   0     10.0.0.1:2380\n"
        );
        assert_eq!(find(members.clone(), "second").unwrap().id.0, 0xab);
        assert_eq!(find(members.clone(), "00000000000000ab").unwrap().name, "second");
        assert!(find(members, "c").unwrap_err().to_string().contains("there are a, second"));
    }
}
