//! End-to-end tests on real clusters, fault injection, and the benchmarks.
