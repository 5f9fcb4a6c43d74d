//! The garbagecollector operator.
