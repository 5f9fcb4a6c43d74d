//! What every operator shares: the Operator contract, conditions, apply and prune, leader election.
