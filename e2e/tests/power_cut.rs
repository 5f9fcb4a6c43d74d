//! Loss of power of servers while clients write, read, list and watch through all of them: what was acknowledged is there
//! when they are started again, and what clients see is what one server could have shown that never fails.
//!
//! `KEELSON_POWER_CUTS=50 cargo test -p keelson-e2e --test power_cut -- --nocapture` cuts it more often.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "faults/clients.rs"]
mod clients;
#[path = "faults/record.rs"]
mod record;

use std::fs::OpenOptions;
use std::io::Write;

use clients::Clients;
use keelson_e2e::{LONG, Servers, eventually};

/// How often the power fails if nobody asks for more.
const CUTS: usize = 3;
/// The state is saved often.
const FLAGS: [&str; 2] = ["--snapshot-log-bytes", "65536"];
const ALL: [usize; 3] = [0, 1, 2];

fn cuts() -> usize {
    std::env::var("KEELSON_POWER_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap())
}

fn start() -> Servers {
    let servers = Servers::start_with_power(3, &FLAGS).unwrap();
    servers.client(0).run(&["create", "namespace", record::NAMESPACE]).unwrap();
    servers
}

fn wait(clients: &Clients, more: u64) {
    let until = clients.written() + more;
    eventually("the clients to get on", LONG, || Ok((clients.written() >= until).then_some(()))).unwrap();
}

fn leader(servers: &Servers) -> usize {
    // Right after a cut there may be none for a moment.
    let known = || Ok(ALL.into_iter().find_map(|number| servers.leader(number).ok()));
    eventually("a leader", LONG, known).unwrap()
}

/// A file on a server's disk that nobody flushes.
struct Unsynced {
    number: usize,
    lines: usize,
}

impl Unsynced {
    fn write(&mut self, servers: &Servers) {
        let path = servers.folder_in(self.number).join("unsynced");
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        self.lines += 1;
        writeln!(file, "{}", self.lines).unwrap();
    }

    /// Whether something of it is lost. From then on it has what is left.
    fn is_lost(&mut self, servers: &Servers) -> bool {
        let path = servers.folder_in(self.number).join("unsynced");
        let left = std::fs::read_to_string(path).unwrap_or_default().lines().count();
        left < std::mem::replace(&mut self.lines, left)
    }
}

/// Starts servers, none of which may be ready before others are.
fn start_again(servers: &mut Servers, numbers: &[usize]) {
    servers.run_all(numbers, &FLAGS).unwrap();
    for number in numbers {
        let client = servers.client(*number);
        eventually("the server to serve again", LONG, || client.run(&["get", "--raw", "/readyz"]).map(Some))
            .unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_a_loss_of_the_power_of_all_servers() {
    let mut servers = start();
    let clients = Clients::start(&servers);
    let mut unsynced = ALL.map(|number| Unsynced { number, lines: 0 });
    let mut lost = 0;
    for cut in 0..cuts() {
        // At moments that have nothing to do with each other.
        wait(&clients, 40 + 17 * (cut as u64 % 7));
        unsynced.iter_mut().for_each(|file| file.write(&servers));
        wait(&clients, 1 + cut as u64 % 5);
        servers.cut_power(&ALL).unwrap();
        lost += unsynced.iter_mut().map(|file| usize::from(file.is_lost(&servers))).sum::<usize>();
        start_again(&mut servers, &ALL);
        ALL.into_iter().for_each(|number| clients.check_what_is_there(&servers, number));
        clients.next_epoch();
        clients.check_what_is_over();
        println!("power cut {cut}: {}, {lost} times what was not flushed was lost", clients.summary());
    }
    wait(&clients, 40);
    clients.stop_and_check();
    assert!(lost > 0, "the cuts lose nothing, so that they prove nothing");
}

#[test]
fn one_server_that_loses_its_power_comes_back_with_all_that_it_has_acknowledged() {
    let mut servers = start();
    let clients = Clients::start(&servers);
    let roles = servers.roles(0).unwrap();
    for cut in 0..cuts() {
        wait(&clients, 40);
        let leader = leader(&servers);
        // What is acknowledged is on the disks of two. One of them loses its power, and the other does not come back before
        // it has shown what it knows to the third.
        let (victim, other) =
            if cut % 2 == 0 { (leader, (leader + 1) % 3) } else { ((leader + 1) % 3, leader) };
        let late = 3 - victim - other;
        clients.next_epoch();
        servers.suspend(late).unwrap();
        wait(&clients, 20);
        servers.cut_power(&[victim]).unwrap();
        servers.kill(other).unwrap();
        servers.resume(late).unwrap();
        start_again(&mut servers, &[victim]);
        [victim, late].into_iter().for_each(|number| clients.check_what_is_there(&servers, number));
        wait(&clients, 20);
        start_again(&mut servers, &[other]);
        ALL.into_iter().for_each(|number| clients.check_what_is_there(&servers, number));
        clients.check_what_is_over();
        eventually("all to have their roles", LONG, || Ok((servers.roles(victim)? == roles).then_some(())))
            .unwrap();
        println!("power cut {cut} of server {victim}, led by {leader}: {}", clients.summary());
    }
    wait(&clients, 40);
    clients.stop_and_check();
}
