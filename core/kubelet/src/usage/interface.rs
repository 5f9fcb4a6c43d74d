//! What has passed through a namespace's network interfaces.

use std::fs;

/// The counters of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) received: Counters,
    pub(crate) sent: Counters,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) errors: u64,
    pub(crate) dropped: u64,
}

/// A line of /proc/PID/net/dev: eight numbers received, eight sent.
fn parse(line: &str) -> Option<Interface> {
    let (name, rest) = line.split_once(':')?;
    let numbers: Vec<u64> = rest.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let direction = |from: usize| {
        let [bytes, packets, errors, dropped] = *numbers.get(from..from + 4)? else { return None };
        Some(Counters { bytes, packets, errors, dropped })
    };
    Some(Interface { name: name.trim().to_owned(), received: direction(0)?, sent: direction(8)? })
}

/// The interfaces that a process sees, without the loopback; `None` if it is gone.
pub(crate) fn of_process(process: &str) -> Option<Vec<Interface>> {
    let text = fs::read_to_string(format!("/proc/{process}/net/dev")).ok()?;
    Some(text.lines().filter_map(parse).filter(|one| one.name != "lo").collect())
}

/// The interface that stands for all: of these names the first, or else the first of all.
pub(crate) fn default_of<'a>(all: &'a [Interface], name: Option<&str>) -> Option<&'a Interface> {
    all.iter().find(|one| Some(one.name.as_str()) == name).or(all.first())
}

/// The name of the interface of this namespace's default route.
pub(crate) fn of_default_route() -> Option<String> {
    let text = fs::read_to_string("/proc/self/net/route").ok()?;
    text.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_a_line_of_sixteen_numbers() {
        let found = parse("  eth0: 100 2 3 4 0 0 0 0 200 5 6 7 0 0 0 0").unwrap();
        assert_eq!(found.received, Counters { bytes: 100, packets: 2, errors: 3, dropped: 4 });
        assert_eq!(found.sent, Counters { bytes: 200, packets: 5, errors: 6, dropped: 7 });
        assert_eq!(parse("face |bytes packets"), None);
        let all = [Interface { name: "a".into(), ..found.clone() }, found];
        assert_eq!(default_of(&all, Some("eth0")).unwrap().name, "eth0");
        assert_eq!(default_of(&all, None).unwrap().name, "a");
    }
}
