//! Whether something keeps the machine's clock right.

use super::Problem;

/// What the kernel calls a clock that nobody keeps right (adjtimex(2)).
const UNSYNCHRONIZED: libc::c_int = libc::STA_UNSYNC;

/// The kernel's own word for its clock; `None` if it does not say.
fn is_synchronized() -> Option<bool> {
    // SAFETY: all zeros are a valid `timex`, by which nothing is changed; the kernel fills it in.
    #[allow(unsafe_code)]
    let (state, status) = unsafe {
        let mut buffer: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&mut buffer), buffer.status)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR && status & UNSYNCHRONIZED == 0)
}

fn of(synchronized: bool) -> Problem {
    let (reason, message) = if synchronized {
        ("NTPIsUp", "the clock is synchronized")
    } else {
        ("NTPIsDown", "the kernel knows of nothing that keeps the clock synchronized")
    };
    Problem { kind: "NTPProblem", is_there: !synchronized, reason, message: message.to_owned() }
}

/// The condition.
pub(super) fn problem() -> Option<Problem> {
    is_synchronized().map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_whether_its_clock_is_kept_right() {
        assert!(is_synchronized().is_some());
        assert!(of(false).is_there && !of(true).is_there);
    }
}
