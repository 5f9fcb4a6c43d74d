//! How many seats each priority level has: its share of all, and what levels lend each other.

/// What a level is configured to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Whether its requests never wait.
    pub exempt: bool,
    /// Its part of all shares.
    pub shares: u32,
    /// How much of its seats others may borrow, of 100.
    pub lendable_percent: u32,
    /// How much it may borrow in relation to its own seats, of 100; any number if none is given.
    pub borrowing_percent: Option<u32>,
}

/// The bounds of a level's seats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Its own.
    pub nominal: u32,
    /// What is left when all that may be is lent.
    pub least: u32,
    /// What it has when it borrows as much as it may.
    pub most: u32,
}

fn percent(of: u32, percent: u32) -> u32 {
    let product = u64::from(of) * u64::from(percent);
    u32::try_from((product + 50) / 100).unwrap_or(u32::MAX)
}

/// The bounds of levels that share so many seats.
pub fn bounds(total: u32, levels: &[Shares]) -> Vec<Bounds> {
    let sum: u64 = levels.iter().map(|level| u64::from(level.shares)).sum();
    let nominal = |level: &Shares| {
        let seats = (u64::from(total) * u64::from(level.shares)).div_ceil(sum.max(1));
        u32::try_from(seats).unwrap_or(u32::MAX)
    };
    levels
        .iter()
        .map(|level| {
            let nominal = nominal(level);
            let borrowable = level.borrowing_percent.map_or(total, |part| percent(nominal, part));
            let least = nominal - percent(nominal, level.lendable_percent).min(nominal);
            Bounds { nominal, least, most: nominal.saturating_add(borrowable) }
        })
        .collect()
}

/// How the demand for a level's seats was since it was last looked at, and before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    last: f64,
    value: f64,
    time: f64,
    sum: f64,
    squares: f64,
    high: f64,
    smoothed: f64,
}

/// What is weighed when seats are shared out anew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wanted {
    /// Whether the level's requests never wait.
    pub exempt: bool,
    /// Its bounds.
    pub bounds: Bounds,
    /// The highest demand of late, in seats.
    pub high: f64,
    /// The demand, smoothed over time.
    pub smoothed: f64,
}

/// How much of a smoothed demand is left after a period.
const SMOOTHING: f64 = 0.977;
/// A level without demand still counts for so much.
const LEAST_TARGET: f64 = 0.001;

impl Demand {
    /// The demand is another one from now on. `now` is in seconds.
    pub fn set(&mut self, now: f64, value: f64) {
        let passed = (now - self.last).max(0.0);
        self.last = now;
        self.time += passed;
        self.sum += passed * self.value;
        self.squares += passed * self.value * self.value;
        self.value = value;
        self.high = self.high.max(value);
    }

    /// Looks at what has gathered, over so many periods, and begins anew. Gives the highest and the smoothed demand.
    pub fn take(&mut self, now: f64, periods: i32) -> (f64, f64) {
        self.set(now, self.value);
        let (average, deviation) = if self.time > 0.0 {
            let average = self.sum / self.time;
            (average, (self.squares / self.time - average * average).max(0.0).sqrt())
        } else {
            (self.value, 0.0)
        };
        let envelope = average + deviation;
        let kept = SMOOTHING.powi(periods);
        self.smoothed = envelope.max(kept * self.smoothed + (1.0 - kept) * envelope);
        let high = self.high;
        (self.time, self.sum, self.squares, self.high) = (0.0, 0.0, 0.0, self.value);
        (high, self.smoothed)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn seats(value: f64) -> u32 {
    value.round().clamp(0.0, f64::from(u32::MAX)) as u32
}

/// The seats of each level from now on. What is nobody's need goes to those who need more, in proportion to it.
pub fn allocate(levels: &[Wanted]) -> Vec<u32> {
    let total: f64 = levels.iter().map(|level| f64::from(level.bounds.nominal)).sum();
    let least = |level: &Wanted| f64::from(level.bounds.least);
    let needed = |level: &Wanted| {
        if level.exempt {
            least(level).max(level.high)
        } else {
            least(level).max(level.high.min(f64::from(level.bounds.nominal)))
        }
    };
    let limited = || levels.iter().filter(|level| !level.exempt);
    let exempt: f64 = levels.iter().filter(|level| level.exempt).map(needed).sum();
    let (left, least_sum, needed_sum): (f64, f64, f64) =
        (total - exempt, limited().map(least).sum(), limited().map(needed).sum());
    if left <= needed_sum {
        let part = if left <= least_sum { 0.0 } else { (left - least_sum) / (needed_sum - least_sum) };
        return levels
            .iter()
            .map(|level| match level.exempt {
                true => seats(needed(level)),
                false => seats(least(level) + part * (needed(level) - least(level))),
            })
            .collect();
    }
    // Everybody gets the same fraction of what they aim for, within their bounds: the fraction that uses up what is left.
    let target = |level: &Wanted| needed(level).max(level.smoothed).max(LEAST_TARGET);
    let given = |level: &Wanted, fraction: f64| {
        (fraction * target(level)).clamp(needed(level), f64::from(level.bounds.most).max(needed(level)))
    };
    let (mut low, mut high) = (0.0, total / LEAST_TARGET);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if limited().map(|level| given(level, middle)).sum::<f64>() < left {
            low = middle;
        } else {
            high = middle;
        }
    }
    levels
        .iter()
        .map(|level| if level.exempt { seats(needed(level)) } else { seats(given(level, high)) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn limited(shares: u32, lendable_percent: u32, borrowing_percent: Option<u32>) -> Shares {
        Shares { exempt: false, shares, lendable_percent, borrowing_percent }
    }

    /// catch-all, global-default, leader-election, node-high, system, workload-high, workload-low, exempt.
    const DEFAULT: [Shares; 8] = [
        limited(5, 0, None),
        limited(20, 50, None),
        limited(10, 0, None),
        limited(40, 25, None),
        limited(30, 33, None),
        limited(40, 50, None),
        limited(100, 90, None),
        Shares { exempt: true, shares: 0, lendable_percent: 0, borrowing_percent: None },
    ];

    fn wanted(demands: [f64; 8]) -> Vec<Wanted> {
        let all = bounds(600, &DEFAULT).into_iter().zip(DEFAULT).zip(demands);
        all.map(|((bounds, shares), high)| Wanted { exempt: shares.exempt, bounds, high, smoothed: high })
            .collect()
    }

    #[test]
    fn the_default_levels_share_600_seats_as_upstreams_do() {
        let nominal: Vec<u32> = bounds(600, &DEFAULT).iter().map(|it| it.nominal).collect();
        assert_eq!(nominal, [13, 49, 25, 98, 74, 98, 245, 0]);
        let least: Vec<u32> = bounds(600, &DEFAULT).iter().map(|it| it.least).collect();
        assert_eq!(least, [13, 24, 25, 73, 50, 49, 24, 0]);
        let bounded = bounds(600, &[limited(1, 0, Some(50)), limited(1, 0, Some(0))]);
        assert_eq!(bounded.iter().map(|it| it.most).collect::<Vec<_>>(), [450, 300]);
    }

    #[test]
    fn a_busy_level_borrows_what_the_others_may_lend() {
        let busy = allocate(&wanted([0.0, 500.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
        let least: u32 = [13, 25, 73, 50, 49, 24].iter().sum();
        assert_eq!(busy[1], 602 - least);
        assert_eq!(busy[6], 24);
    }

    #[test]
    fn what_a_level_needs_of_its_own_is_not_lent() {
        let busy = allocate(&wanted([0.0, 500.0, 0.0, 0.0, 0.0, 0.0, 245.0, 0.0]));
        assert_eq!(busy[6], 245);
        assert!(busy[1] > 49, "{busy:?}");
        // Exempt requests take what they want; the others share the rest.
        let exempt = allocate(&wanted([0.0, 500.0, 0.0, 0.0, 0.0, 0.0, 245.0, 300.0]));
        assert_eq!(exempt[7], 300);
        assert!(exempt.iter().sum::<u32>() <= 604, "{exempt:?}");
    }

    #[test]
    fn demand_is_remembered_for_a_while() {
        let mut demand = Demand::default();
        demand.set(0.0, 10.0);
        demand.set(5.0, 0.0);
        let (high, smoothed) = demand.take(10.0, 1);
        assert_eq!((high, smoothed), (10.0, 10.0));
        let (high, after) = demand.take(20.0, 1);
        assert_eq!(high, 0.0);
        assert!((after - 9.77).abs() < 1e-9, "{after}");
        assert!(demand.take(10_020.0, 1000).1 < 1e-6);
    }
}
