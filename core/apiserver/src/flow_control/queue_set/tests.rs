use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

use super::*;

const QUEUES: Queuing = Queuing::Queues { queues: 4, hand: 1, length: 3 };

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn starts(arrival: Arrival) -> Place {
    match arrival {
        Arrival::Starts(place) => place,
        other => panic!("{other:?}"),
    }
}

fn waits(arrival: Arrival) -> Place {
    match arrival {
        Arrival::Waits(place, _) => place,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_finds_a_free_seat_starts_and_the_next_waits_until_one_is_free() {
    let mut set = QueueSet::new(QUEUES, 1);
    let first = starts(set.arrive(at(0), &[0], Width::ONE));
    let second = waits(set.arrive(at(1), &[1], Width::ONE));
    assert_eq!((set.seats(), set.demand(), set.start_next(at(2))), (1, 2, None));
    set.finish(at(3), &first);
    assert_eq!(set.start_next(at(3)).map(|place| place.id), Some(second.id));
    assert_eq!((set.executing(), set.waiting()), (1, 0));
}

#[test]
fn a_full_queue_refuses_and_other_queues_do_not() {
    let mut set = QueueSet::new(QUEUES, 1);
    starts(set.arrive(at(0), &[0], Width::ONE));
    for _ in 0..3 {
        waits(set.arrive(at(0), &[0], Width::ONE));
    }
    assert_eq!(set.arrive(at(0), &[0], Width::ONE), Arrival::Refused(Refusal::QueueFull));
    waits(set.arrive(at(0), &[1], Width::ONE));
}

#[test]
fn without_queues_what_finds_no_seat_is_refused() {
    let mut set = QueueSet::new(Queuing::None, 2);
    let first = starts(set.arrive(at(0), &[], Width::ONE));
    starts(set.arrive(at(0), &[], Width::ONE));
    assert_eq!(set.arrive(at(0), &[], Width::ONE), Arrival::Refused(Refusal::ConcurrencyLimit));
    set.finish(at(1), &first);
    starts(set.arrive(at(1), &[], Width::ONE));
}

#[test]
fn a_request_that_is_wider_than_the_level_is_served_alone() {
    let mut set = QueueSet::new(QUEUES, 4);
    let wide = Width { seats: 9, ..Width::ONE };
    let narrow = starts(set.arrive(at(0), &[0], Width::ONE));
    let wide = waits(set.arrive(at(0), &[1], wide));
    assert_eq!(set.start_next(at(1)), None);
    set.finish(at(2), &narrow);
    assert_eq!(set.start_next(at(2)).map(|place| place.id), Some(wide.id));
    waits(set.arrive(at(2), &[2], Width::ONE));
}

#[test]
fn who_gives_up_leaves_its_place_to_those_behind() {
    let mut set = QueueSet::new(QUEUES, 1);
    let first = starts(set.arrive(at(0), &[0], Width::ONE));
    let gone = waits(set.arrive(at(0), &[0], Width::ONE));
    let next = waits(set.arrive(at(0), &[0], Width::ONE));
    assert!(set.give_up(at(1), &gone));
    assert!(!set.give_up(at(1), &gone));
    set.finish(at(2), &first);
    assert_eq!(set.start_next(at(2)).map(|place| place.id), Some(next.id));
    assert_eq!(set.waiting(), 0);
}

#[test]
fn more_seats_let_more_start_and_fewer_queues_lose_nobody() {
    let mut set = QueueSet::new(QUEUES, 1);
    starts(set.arrive(at(0), &[0], Width::ONE));
    let waiting = waits(set.arrive(at(0), &[3], Width::ONE));
    set.configure(Queuing::Queues { queues: 2, hand: 1, length: 3 });
    set.set_limit(at(1), 2);
    assert_eq!(set.start_next(at(1)).map(|place| place.id), Some(waiting.id));
}

/// Serves two flows that always have requests waiting, and counts how much each was served.
fn serve(seats: [u32; 2], milliseconds: [u64; 2], rounds: u64) -> [f64; 2] {
    let mut set = QueueSet::new(Queuing::Queues { queues: 2, hand: 1, length: 50 }, 4);
    let mut served = [0.0; 2];
    let mut running: Vec<(u64, Place)> = Vec::new();
    for now in 0..rounds {
        let (done, left) = running.into_iter().partition(|(end, _)| *end <= now);
        running = left;
        for (_, place) in Vec::<(u64, Place)>::from_iter(done) {
            set.finish(at(now), &place);
        }
        for flow in 0..2 {
            while set.queues().nth(flow).is_some_and(|(waiting, _, _)| waiting < 8) {
                let width = Width { seats: seats[flow], ..Width::ONE };
                if let Arrival::Starts(place) = set.arrive(at(now), &[flow], width) {
                    served[flow] += f64::from(seats[flow]) * milliseconds[flow] as f64;
                    running.push((now + milliseconds[flow], place));
                }
            }
        }
        while let Some(place) = set.start_next(at(now)) {
            let flow = place.queue.unwrap();
            served[flow] += f64::from(seats[flow]) * milliseconds[flow] as f64;
            running.push((now + milliseconds[flow], place));
        }
    }
    served
}

#[test]
fn two_busy_flows_get_the_same_whatever_their_requests_cost() {
    for (seats, milliseconds) in [([1, 1], [5, 5]), ([1, 1], [2, 20]), ([1, 3], [5, 5]), ([2, 1], [3, 30])] {
        let [a, b] = serve(seats, milliseconds, 20_000);
        let ratio = a / b;
        assert!((0.8..1.25).contains(&ratio), "{seats:?} {milliseconds:?}: {a} {b}");
    }
}

proptest! {
    #[test]
    fn seats_are_never_given_twice_and_everybody_is_served_in_the_end(
        limit in 1_u32..6,
        arrivals in proptest::collection::vec((0_usize..4, 1_u32..9, 0_u64..5), 1..60),
    ) {
        let mut set = QueueSet::new(Queuing::Queues { queues: 4, hand: 1, length: 100 }, limit);
        let (mut now, mut running, mut served, count) = (0, Vec::new(), 0, arrivals.len());
        for (queue, seats, pause) in arrivals {
            now += pause;
            match set.arrive(at(now), &[queue], Width { seats, ..Width::ONE }) {
                Arrival::Starts(place) => running.push(place),
                Arrival::Waits(..) => {}
                Arrival::Refused(refusal) => prop_assert!(false, "{refusal:?}"),
            }
            prop_assert!(set.seats() <= limit || set.executing() == 1);
        }
        while let Some(place) = running.pop() {
            now += 1;
            set.finish(at(now), &place);
            served += 1;
            while let Some(next) = set.start_next(at(now)) {
                running.push(next);
                prop_assert!(set.seats() <= limit || set.executing() == 1);
            }
        }
        prop_assert_eq!((served, set.waiting(), set.demand(), set.active), (count, 0, 0, 0));
    }
}
