//! How far failures reach (pure).

use std::sync::Arc;

use keelson_operator_kit::ObjectKey;

use crate::node::{NodeView, Readiness};

/// In a zone with so many nodes or fewer, pods stay where they are while most of it fails.
const SMALL: usize = 50;

/// What may be done about a node that does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It alone, or few others: its pods go, one node after another.
    Node,
    /// Most of its zone: the pods stay, for the failure may be ours.
    Zone,
    /// No node works: what took pods from nodes before is taken back.
    Everything,
}

/// How far the failure of a node of a zone reaches.
pub fn reach(nodes: &[(ObjectKey, Arc<NodeView>)], zone: &str) -> Reach {
    let works = |node: &NodeView| node.readiness() == Readiness::Ready;
    if !nodes.iter().any(|(_, node)| works(node)) {
        return Reach::Everything;
    }
    let zone: Vec<&NodeView> =
        nodes.iter().map(|(_, node)| &**node).filter(|node| node.zone == zone).collect();
    let failed = zone.iter().filter(|node| !works(node)).count();
    // 55 % of more than two nodes; a zone that fails as a whole is given up.
    let most = failed > 2 && failed * 100 >= zone.len() * 55;
    if most && failed < zone.len() && zone.len() <= SMALL { Reach::Zone } else { Reach::Node }
}
