//! A replicated, revisioned key-value store: an immutable ordered map behind a Raft log.
