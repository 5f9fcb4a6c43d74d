//! What clients see of three servers while these are killed, suspended, cut off and out of
//! disk space: each key behaves as one register, a list never goes back in time, a watch misses
//! nothing.
//!
//! `KEELSON_FAULT_SECONDS=3600 cargo test -p keelson-e2e --test faults -- --nocapture` goes on for an hour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/record.rs"]
mod record;

use std::time::{Duration, Instant};

use clients::Clients;
use keelson_e2e::{LONG, Servers, eventually};

/// What happens to a server.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Suspended,
    CutOff,
    DiskFull,
}

const FAULTS: [Fault; 4] = [Fault::Killed, Fault::Suspended, Fault::CutOff, Fault::DiskFull];
/// How many of them there are if nobody asks for more.
const SHORT: usize = 8;

fn begin(servers: &mut Servers, victim: usize, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::Killed => servers.kill(victim),
        Fault::Suspended => servers.suspend(victim),
        Fault::CutOff => servers.connect(victim, false),
        Fault::DiskFull => servers.fill_disk(victim),
    }
}

fn end(servers: &mut Servers, victim: usize, fault: Fault) -> anyhow::Result<()> {
    match fault {
        Fault::Killed => servers.run(victim, &[]),
        Fault::Suspended => servers.resume(victim),
        Fault::CutOff => servers.connect(victim, true),
        Fault::DiskFull => servers.free_disk(victim),
    }
}

#[test]
fn what_clients_see_is_what_one_server_that_never_fails_could_have_shown() {
    let mut servers = Servers::start(3).unwrap();
    servers.client(0).run(&["create", "namespace", record::NAMESPACE]).unwrap();
    let clients = Clients::start(&servers);
    let wait = |clients: &Clients, more: u64| {
        let until = clients.written() + more;
        eventually("the clients to get on", LONG, || Ok((clients.written() >= until).then_some(()))).unwrap();
    };
    let seconds = std::env::var("KEELSON_FAULT_SECONDS").ok().map(|it| it.parse::<u64>().unwrap());
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut round = 0;
    while until.map_or(round < SHORT, |until| Instant::now() < until) {
        wait(&clients, 40);
        let fault = FAULTS[round % FAULTS.len()];
        // The leader, or one who follows.
        let leader = (0..3).find_map(|number| servers.leader(number).ok()).unwrap();
        let victim = if (round / FAULTS.len()).is_multiple_of(2) { leader } else { (leader + 1) % 3 };
        clients.next_epoch();
        begin(&mut servers, victim, fault).unwrap();
        wait(&clients, 60);
        end(&mut servers, victim, fault).unwrap();
        let client = servers.client(victim);
        eventually("the server to serve again", LONG, || client.run(&["get", "--raw", "/readyz"]).map(Some))
            .unwrap();
        clients.check_what_is_over();
        round += 1;
        if until.is_some() {
            println!(
                "{round} faults, the last: {fault:?} of server {victim}, led by {leader}; {}",
                clients.summary()
            );
        }
    }
    wait(&clients, 40);
    (0..3).for_each(|number| clients.check_what_is_there(&servers, number));
    let summary = clients.summary();
    clients.stop_and_check();
    println!("{round} faults, {summary}: no violation");
}
