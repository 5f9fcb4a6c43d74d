//! Other people's tables that lose forwarded packets.
//!
//! An accept in our table does not help against a drop in another. The common case is the `filter` table of iptables with policy
//! drop, as container engines set it; rules of ours are put before theirs there. Other chains that drop are only told.

use keelson_nftables::{
    Batch, ChainState, Comparison, Connection, DumpError, Expression, Family, Meta, Register, Rule, Table,
    TransactionError, Verdict,
};

use crate::config::bridge;

/// The number of the forward hook.
const FORWARD: u32 = 2;

/// Other tables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ForwardingError {
    /// Read.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// Changed.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
}

fn iptables() -> Table {
    Table::new(Family::Ipv4, "filter")
}

/// Where rules of ours belong in iptables' table: only where forwarded packets are lost without them.
fn place(chains: &[ChainState]) -> Option<&'static str> {
    let ours = |name: &str| chains.iter().find(|chain| chain.table == "filter" && chain.name == name);
    ours("FORWARD").filter(|chain| chain.drops)?;
    Some(if ours("DOCKER-USER").is_some() { "DOCKER-USER" } else { "FORWARD" })
}

/// Chains that lose what they do not know, beside iptables' own: table and name.
fn obstacles(chains: &[ChainState]) -> Vec<String> {
    chains
        .iter()
        .filter(|chain| chain.drops && chain.hook.is_some_and(|(hook, _)| hook == FORWARD))
        .filter(|chain| (chain.table.as_str(), chain.name.as_str()) != ("filter", "FORWARD"))
        .map(|chain| format!("{} {}", chain.table, chain.name))
        .collect()
}

fn comment(cluster_id: &str) -> String {
    format!("keelson-{cluster_id}")
}

/// Lets pods' packets pass; answers which chains may still lose them.
pub(crate) fn open(kernel: &mut Connection, cluster_id: &str) -> Result<Vec<String>, ForwardingError> {
    let chains = kernel.chains(Family::Ipv4)?;
    let mut left = obstacles(&chains);
    left.extend(obstacles(&kernel.chains(Family::Inet)?));
    let Some(chain) = place(&chains) else { return Ok(left) };
    let comment = comment(cluster_id);
    if kernel.rules(&iptables())?.iter().any(|rule| rule.chain == chain && rule.comment == comment) {
        return Ok(left);
    }
    let mut batch = Batch::new();
    for key in [Meta::InputName, Meta::OutputName] {
        let register = Register::new(0);
        let rule = Rule::new([
            Expression::Meta { key, to: register },
            Expression::Compare {
                how: Comparison::Equal,
                from: register,
                with: Expression::interface_bytes(&bridge(cluster_id)),
            },
            Expression::Counter,
            Expression::Verdict(Verdict::Accept),
        ]);
        batch.insert_rule(&iptables(), chain, &rule.comment(comment.clone()));
    }
    kernel.commit(batch)?;
    Ok(left)
}

/// Takes our rules out again.
pub(crate) fn close(kernel: &mut Connection, cluster_id: &str) -> Result<(), ForwardingError> {
    let table = iptables();
    if !kernel.tables(Family::Ipv4)?.contains(&table.name) {
        return Ok(());
    }
    let comment = comment(cluster_id);
    let mut batch = Batch::new();
    for rule in kernel.rules(&table)?.iter().filter(|rule| rule.comment == comment) {
        batch.delete_rule(&table, &rule.chain, rule.handle);
    }
    Ok(kernel.commit(batch)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, name: &str, drops: bool) -> ChainState {
        ChainState {
            table: table.to_owned(),
            name: name.to_owned(),
            hook: Some((FORWARD, 0)),
            drops,
            kind: Some("filter".to_owned()),
        }
    }

    #[test]
    fn rules_go_where_forwarded_packets_are_lost_without_them() {
        assert_eq!(place(&[]), None);
        assert_eq!(place(&[chain("filter", "FORWARD", false)]), None);
        assert_eq!(place(&[chain("filter", "FORWARD", true)]), Some("FORWARD"));
        let docker = [chain("filter", "FORWARD", true), chain("filter", "DOCKER-USER", false)];
        assert_eq!(place(&docker), Some("DOCKER-USER"));
        assert!(obstacles(&docker).is_empty());
        assert_eq!(obstacles(&[chain("firewall", "forward", true)]), ["firewall forward"]);
    }
}
