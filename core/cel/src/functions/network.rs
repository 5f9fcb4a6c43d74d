//! Addresses, networks and URLs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use url::Url;

use super::{Arguments, Outcome};
use crate::error::EvalError;
use crate::value::{Key, Map, Opaque, Value};

fn text<'v>(args: &'v [Value<'_>], at: usize) -> Result<&'v str, EvalError> {
    args.get(at).and_then(Value::as_str).ok_or(EvalError::NoSuchOverload)
}

/// An address; one with a zone, or of the fourth version in a form of the sixth, is none.
fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    let ip: IpAddr = text.parse().map_err(|_| {
        EvalError::Failed(format!("IP Address {text:?} parse error during conversion from string"))
    })?;
    match ip {
        IpAddr::V6(six) if six.to_ipv4_mapped().is_some() => {
            Err(EvalError::Failed(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        ip => Ok(ip),
    }
}

fn parse_cidr(text: &str) -> Result<IpNet, EvalError> {
    let failed =
        || EvalError::Failed(format!("network address parse error during conversion from string: {text:?}"));
    let (address, bits) = text.split_once('/').ok_or_else(failed)?;
    if bits.len() > 1 && bits.starts_with('0') || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(failed());
    }
    let ip = parse_ip(address)?;
    IpNet::new(ip, bits.parse().map_err(|_| failed())?).map_err(|_| failed())
}

pub(super) fn ip<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    parse_ip(text(args, 0)?).map(|it| Value::Opaque(Opaque::Ip(it)))
}

pub(super) fn is_ip<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Bool(parse_ip(text(args, 0)?).is_ok()))
}

pub(super) fn is_canonical<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let text = text(args, 0)?;
    Ok(Value::Bool(parse_ip(text)?.to_string() == text))
}

fn about_ip<'a>(args: Arguments<'a, '_>, about: fn(&IpAddr) -> bool) -> Outcome<'a> {
    match args {
        [Value::Opaque(Opaque::Ip(ip))] => Ok(Value::Bool(about(ip))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn family<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    match args {
        [Value::Opaque(Opaque::Ip(ip))] => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn is_unspecified<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    about_ip(args, IpAddr::is_unspecified)
}

pub(super) fn is_loopback<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    about_ip(args, IpAddr::is_loopback)
}

fn link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(four) => four.octets()[..3] == [224, 0, 0],
        IpAddr::V6(six) => six.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.segments()[0] & 0xffc0 == 0xfe80,
    }
}

pub(super) fn is_link_local_multicast<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    about_ip(args, link_local_multicast)
}

pub(super) fn is_link_local_unicast<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    about_ip(args, link_local_unicast)
}

pub(super) fn is_global_unicast<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    about_ip(args, |ip| {
        let broadcast = matches!(ip, IpAddr::V4(four) if four.is_broadcast());
        !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast(ip))
    })
}

pub(super) fn cidr<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    parse_cidr(text(args, 0)?).map(|it| Value::Opaque(Opaque::Cidr(it)))
}

pub(super) fn is_cidr<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Bool(parse_cidr(text(args, 0)?).is_ok()))
}

fn network(args: &[Value<'_>]) -> Result<IpNet, EvalError> {
    match args.first() {
        Some(Value::Opaque(Opaque::Cidr(it))) => Ok(*it),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn ip_of<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Opaque(Opaque::Ip(network(args)?.addr())))
}

pub(super) fn prefix_length<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Int(i64::from(network(args)?.prefix_len())))
}

pub(super) fn masked<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Opaque(Opaque::Cidr(network(args)?.trunc())))
}

pub(super) fn contains_ip<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let ip = match args.get(1) {
        Some(Value::Opaque(Opaque::Ip(ip))) => *ip,
        _ => parse_ip(text(args, 1)?)?,
    };
    Ok(Value::Bool(network(args)?.contains(&ip)))
}

pub(super) fn contains_cidr<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let inner = match args.get(1) {
        Some(Value::Opaque(Opaque::Cidr(inner))) => *inner,
        _ => parse_cidr(text(args, 1)?)?,
    };
    let outer = network(args)?;
    Ok(Value::Bool(outer.contains(&inner.addr()) && outer.prefix_len() <= inner.prefix_len()))
}

fn parse_url(text: &str) -> Result<Url, EvalError> {
    // A path alone is a URL too: it is read below a host that is then not shown.
    let whole = if text.starts_with('/') { format!("path://{text}") } else { text.to_owned() };
    Url::parse(&whole)
        .map_err(|error| EvalError::Failed(format!("URL parse error during conversion from string: {error}")))
}

pub(super) fn url<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    parse_url(text(args, 0)?).map(|it| Value::Opaque(Opaque::Url(Arc::new(it))))
}

pub(super) fn is_url<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    Ok(Value::Bool(parse_url(text(args, 0)?).is_ok()))
}

fn of_url<'a>(args: Arguments<'a, '_>, part: fn(&Url) -> String) -> Outcome<'a> {
    match args {
        [Value::Opaque(Opaque::Url(url))] => Ok(Value::text(part(url))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

pub(super) fn scheme<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    of_url(args, |url| if url.scheme() == "path" { String::new() } else { url.scheme().to_owned() })
}

pub(super) fn host<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    of_url(args, |url| match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    })
}

pub(super) fn hostname<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    of_url(args, |url| url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned())
}

pub(super) fn port<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    of_url(args, |url| url.port().map(|port| port.to_string()).unwrap_or_default())
}

pub(super) fn path<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    of_url(args, |url| url.path().to_owned())
}

pub(super) fn query<'a>(args: Arguments<'a, '_>) -> Outcome<'a> {
    let [Value::Opaque(Opaque::Url(url))] = args else { return Err(EvalError::NoSuchOverload) };
    let mut found: BTreeMap<Key, Vec<Value<'a>>> = BTreeMap::new();
    for (name, value) in url.query_pairs() {
        found.entry(Key::Text(name.into_owned().into())).or_default().push(Value::text(value.into_owned()));
    }
    let entries = found.into_iter().map(|(name, values)| (name, Value::list(values))).collect();
    Ok(Value::Map(Map::Owned(Arc::new(entries))))
}
