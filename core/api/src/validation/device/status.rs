//! What a claim has got, for whom, and what drivers say of it.

use std::collections::HashSet;
use std::net::IpAddr;

use super::super::FieldError;
use super::super::at::At;
use super::super::condition::conditions;
use super::super::pod::driver_name;
use super::super::pod::scheduling::node_selector;
use super::claim::{MOST, Requests, reference, references, requests};
use super::{
    binding_conditions, configuration, is_bounded, label_name, opaque, own_text, pool_name, tolerations,
    unique,
};
use crate::object::Object;

/// The most consumers of one claim.
const MAX_CONSUMERS: usize = 256;

/// A change of a claim's status.
pub(in super::super) fn claim_status(new: &Object, old: &Object, errors: &mut Vec<FieldError>) {
    let (status, before) = (At::of(new, "status"), At::of(old, "status"));
    let known = requests(&At::of(old, "spec").field("devices"));
    let (allocation, was) = (status.field("allocation"), before.field("allocation"));
    let consumers = status.field("reservedFor");
    if is_bounded(&consumers, MAX_CONSUMERS, errors) {
        for field in consumers.items().flat_map(|it| ["resource", "name", "uid"].map(|name| it.field(name))) {
            if field.is_empty() {
                errors.push(field.required(""));
            }
        }
        unique(&consumers, |it| it.field("uid").text().to_owned(), errors);
    }
    let given: HashSet<String> =
        allocation.field("devices").field("results").items().map(|it| device_id(&it)).collect();
    let devices = status.field("devices");
    devices.items().for_each(|it| device(&it, &given, errors));
    unique(&devices, device_id, errors);
    if !consumers.is_empty() {
        let known = before.field("reservedFor");
        let is_new = |it: &At<'_>| !known.items().any(|other| other.value == it.value);
        if !allocation.is_set() {
            errors.push(consumers.forbidden("may not be specified when `allocated` is not set"));
        } else if new.deletion_timestamp().is_some() && consumers.items().any(|it| is_new(&it)) {
            errors.push(consumers.forbidden(
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
            ));
        }
    }
    if was.is_set() && allocation.is_set() {
        if was.value != allocation.value {
            errors.push(allocation.invalid("field is immutable"));
        }
    } else if allocation.is_set() {
        allocated(&allocation, &known, errors);
    }
}

/// How a device is told from others: its driver, its pool and its name, and the share of it.
fn device_id(at: &At<'_>) -> String {
    let own = ["driver", "pool", "device"].map(|field| at.field(field).text()).join("/");
    match at.field("shareID").text() {
        "" => own,
        share => format!("{own}/{share}"),
    }
}

fn share(at: &At<'_>, errors: &mut Vec<FieldError>) {
    if !at.is_set() {
        return;
    }
    let text = at.text();
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    let has_form =
        parts == [8, 4, 4, 4, 12] && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    if text.len() != 36 {
        errors.push(at.invalid(format!("error validating uid: invalid UUID length: {}", text.len())));
    } else if !has_form {
        errors.push(at.invalid("error validating uid: invalid UUID format"));
    } else if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        errors.push(at.invalid(
            "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters",
        ));
    }
}

/// Which device of whom.
fn place(at: &At<'_>, errors: &mut Vec<FieldError>) {
    driver_name(&at.field("driver"), errors);
    pool_name(&at.field("pool"), errors);
    label_name(&at.field("device"), errors);
    share(&at.field("shareID"), errors);
}

fn allocated(at: &At<'_>, known: &Requests<'_>, errors: &mut Vec<FieldError>) {
    let devices = at.field("devices");
    let results = devices.field("results");
    if is_bounded(&results, MOST, errors) {
        for it in results.items() {
            reference(&it.field("request"), known, errors);
            place(&it, errors);
            binding_conditions(&it, errors);
            tolerations(&it.field("tolerations"), errors);
        }
    }
    let list = devices.field("config");
    if is_bounded(&list, 2 * MOST, errors) {
        for it in list.items() {
            it.field("source").one_of(&["FromClaim", "FromClass"], errors);
            references(&it.field("requests"), known, errors);
            configuration(&it, errors);
        }
    }
    let selector = at.field("nodeSelector");
    if selector.is_set() {
        node_selector(&selector, errors);
    }
}

/// What a driver says of a device.
fn device(at: &At<'_>, given: &HashSet<String>, errors: &mut Vec<FieldError>) {
    place(at, errors);
    let id = device_id(at);
    if !given.contains(&id) {
        errors.push(FieldError::invalid(at.path.as_str(), id, "must be an allocated device in the claim"));
    }
    is_bounded(&at.field("conditions"), 8, errors);
    conditions(&at.field("conditions"), errors);
    if at.field("data").is_set() {
        opaque(&at.field("data"), errors);
    }
    let network = at.field("networkData");
    for (field, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if network.field(field).text().len() > most {
            errors.push(network.field(field).too_long(most));
        }
    }
    let addresses = network.field("ips");
    if is_bounded(&addresses, 16, errors) {
        addresses.items().for_each(|it| interface_address(&it, errors));
        unique(&addresses, own_text, errors);
    }
}

fn interface_address(at: &At<'_>, errors: &mut Vec<FieldError>) {
    let parsed = at.text().split_once('/').and_then(|(address, bits)| {
        let (address, length) = (address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
        (length <= if address.is_ipv4() { 32 } else { 128 }).then(|| format!("{address}/{length}"))
    });
    match parsed {
        None => errors
            .push(at.invalid("must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)")),
        Some(text) if text != at.text() => {
            errors.push(at.invalid(format!("must be in canonical form ({text:?})")));
        }
        Some(_) => {}
    }
}
