//! The etcd that a store is put on.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use keelson_etcd::Config;

/// It trusts that the machine goes on, for the sake of speed.
const NO_FSYNC: &str = "--unsafe-no-fsync";

pub(crate) struct Etcd(keelson_e2e::Etcd);

impl Etcd {
    pub(crate) fn start() -> Self {
        Self::start_with(1, &[])
    }

    pub(crate) fn start_with(members: usize, arguments: &[&str]) -> Self {
        // `RUST_LOG` shows what goes on; another test of this process may have been first.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let arguments = [arguments, &[NO_FSYNC]].concat();
        Etcd(keelson_e2e::Etcd::start_with(members, &arguments).unwrap())
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            ca_file: Some(self.file("ca.crt")),
            cert_file: Some(self.file("client.crt")),
            key_file: Some(self.file("client.key")),
            start_timeout: Duration::from_secs(30),
            ..Config::new(self.urls())
        }
    }
}

impl Deref for Etcd {
    type Target = keelson_e2e::Etcd;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Etcd {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}
