//! How much the server takes on at once, and how long it waits.

use std::time::Duration;

/// How much the server takes on at once, and how long it waits. Fields are named as kube-apiserver's flags.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// How long a request may take that is no watch, log or stream: then it is answered with 504.
    pub request_timeout: Duration,
    /// Requests at once that change nothing. Together with the next one it is what priority and fairness shares out.
    pub max_requests_inflight: u32,
    /// Requests at once that change something.
    pub max_mutating_requests_inflight: u32,
    /// Whether requests are queued by FlowSchemas and PriorityLevelConfigurations; otherwise those beyond the two
    /// limits are refused.
    pub enable_priority_and_fairness: bool,
    /// How long the server goes on to serve after it has been told to end and says that it is not ready.
    pub shutdown_delay_duration: Duration,
    /// The probability, of at most 0.02, with which a request makes its HTTP/2 connection end after it, so that clients
    /// spread over servers.
    pub goaway_chance: f64,
    /// Requests at once on one HTTP/2 connection.
    pub http2_max_streams_per_connection: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_timeout: Duration::from_secs(60),
            max_requests_inflight: 400,
            max_mutating_requests_inflight: 200,
            enable_priority_and_fairness: true,
            shutdown_delay_duration: Duration::ZERO,
            goaway_chance: 0.0,
            http2_max_streams_per_connection: 1000,
        }
    }
}
