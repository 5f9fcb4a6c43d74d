//! What stands between members, so that a test can cut them off from each other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Whom a proxy lets through.
#[derive(Clone, Default)]
struct Rule {
    nobody: bool,
    except: BTreeSet<IpAddr>,
}

impl Rule {
    fn lets(&self, source: IpAddr) -> bool {
        !self.nobody && !self.except.contains(&source)
    }
}

/// Passes bytes on to a member.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: SocketAddr,
    rule: Arc<watch::Sender<Rule>>,
}

impl Proxy {
    pub(crate) async fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let rule = Arc::new(watch::Sender::new(Rule::default()));
        let rules = Arc::clone(&rule);
        tokio::spawn(async move {
            while let Ok((mut from, source)) = listener.accept().await {
                let mut rule = rules.subscribe();
                tokio::spawn(async move {
                    if !rule.borrow_and_update().lets(source.ip()) {
                        return;
                    }
                    let Ok(mut to) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut to) => {}
                        _ = rule.wait_for(|rule| !rule.lets(source.ip())) => {}
                    }
                });
            }
        });
        Proxy { address, target, rule }
    }

    /// The address from which the member behind it connects to others.
    pub(crate) fn source(&self) -> IpAddr {
        self.target.ip()
    }

    pub(crate) fn refuse_all(&self) {
        self.rule.send_modify(|rule| rule.nobody = true);
    }

    pub(crate) fn refuse(&self, source: IpAddr) {
        self.rule.send_modify(|rule| {
            rule.except.insert(source);
        });
    }

    pub(crate) fn open(&self) {
        self.rule.send_replace(Rule::default());
    }
}
