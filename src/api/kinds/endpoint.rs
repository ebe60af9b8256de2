//! Endpoints and `EndpointSlices`: those of `default/kubernetes`, which podd itself keeps, and no others yet.

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

use super::rules::{self, Rules};
use super::{AGE, Kind, NAME, READ_VERBS, Row, age_cell, at, name_cell, row, text};
use crate::admit::{MetadataRules, NameRule};
use crate::model::Timestamp;

/// How many of a list a cell tells.
const TOLD: usize = 3;

pub(super) static ENDPOINTS: Kind = Kind {
    short_names: &["ep"],
    verbs: READ_VERBS,
    columns: &[
        NAME,
        text(
            "Endpoints",
            "The set of all endpoints is the union of all subsets. Addresses are placed into subsets according to the IPs they share. A single address with multiple ports, some of which are ready and some of which are not (because they come from different containers) will result in the address being displayed in different subsets for the different ports. No address will appear in both Addresses and NotReadyAddresses in the same subset. Sets of addresses and ports that comprise a service.",
        ),
        AGE,
    ],
    row: endpoints_cells,
    admit: rules::refuse::<Endpoints>,
    deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
    ..rules::kind::<Endpoints>("endpoints")
};

pub(super) static ENDPOINT_SLICE: Kind = Kind {
    verbs: READ_VERBS,
    columns: &[
        NAME,
        text(
            "AddressType",
            "addressType specifies the type of address carried by this EndpointSlice. All addresses in this slice must be the same type. This field is immutable after creation. The following address types are currently supported: * IPv4: Represents an IPv4 Address. * IPv6: Represents an IPv6 Address. * FQDN: Represents a Fully Qualified Domain Name.",
        ),
        text(
            "Ports",
            "ports specifies the list of network ports exposed by each endpoint in this slice. Each port must have a unique name. When ports is empty, it indicates that there are no defined ports. When a port is defined with a nil port value, it indicates \"all ports\". Each slice may include a maximum of 100 ports.",
        ),
        text(
            "Endpoints",
            "endpoints is a list of unique endpoints in this slice. Each slice may include a maximum of 1000 endpoints.",
        ),
        AGE,
    ],
    row: slice_cells,
    admit: rules::refuse::<EndpointSlice>,
    ..rules::kind::<EndpointSlice>("endpointslice")
};

impl Rules for Endpoints {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: true,
        generation: false,
    };

    fn kind() -> &'static Kind {
        &ENDPOINTS
    }
}

impl Rules for EndpointSlice {
    const METADATA: MetadataRules = MetadataRules {
        name: NameRule::Subdomain,
        namespaced: true,
        generation: true,
    };

    fn kind() -> &'static Kind {
        &ENDPOINT_SLICE
    }
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// `printEndpoints`.
fn endpoints_cells(endpoints: &Value, now: Timestamp) -> Row {
    let mut told = Vec::new();
    for subset in items(endpoints, "/subsets") {
        let addresses: Vec<&str> = items(subset, "/addresses").map(|address| at(address, "/ip")).collect();
        if items(subset, "/ports").next().is_none() {
            told.extend(addresses.iter().map(|ip| (*ip).to_owned()));
        }
        for port in items(subset, "/ports") {
            let port = &port["port"];
            told.extend(addresses.iter().map(|ip| {
                if ip.contains(':') {
                    format!("[{ip}]:{port}")
                } else {
                    format!("{ip}:{port}")
                }
            }));
        }
    }
    row(vec![
        name_cell(endpoints),
        shortened(&told, "<none>").into(),
        age_cell(endpoints, now),
    ])
}

/// `printEndpointSlice`.
fn slice_cells(slice: &Value, now: Timestamp) -> Row {
    let number = |port: &Value| {
        port["port"]
            .as_u64()
            .map_or_else(|| "*".to_owned(), |port| port.to_string())
    };
    let ports: Vec<String> = items(slice, "/ports").map(number).collect();
    let addresses = items(slice, "/endpoints").flat_map(|endpoint| items(endpoint, "/addresses"));
    let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    row(vec![
        name_cell(slice),
        at(slice, "/addressType").into(),
        shortened(&ports, "<unset>").into(),
        shortened(&addresses, "<unset>").into(),
        age_cell(slice, now),
    ])
}

/// The first few, and how many there are besides.
fn shortened(all: &[String], none: &str) -> String {
    if all.is_empty() {
        return none.to_owned();
    }
    let first = all[..all.len().min(TOLD)].join(",");
    match all.len().saturating_sub(TOLD) {
        0 => first,
        more => format!("{first} + {more} more..."),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn addresses_stand_with_their_ports() {
        for (subsets, cell) in [
            (json!(null), "<none>"),
            (json!([{"addresses": [{"ip": "10.0.0.1"}]}]), "10.0.0.1"),
            (
                json!([{"addresses": [{"ip": "fd00::1"}], "ports": [{"port": 443}]}]),
                "[fd00::1]:443",
            ),
            (
                json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 1}, {"port": 2}]}]),
                "10.0.0.1:1,10.0.0.2:1,10.0.0.1:2 + 1 more...",
            ),
        ] {
            let row = endpoints_cells(&json!({"subsets": subsets}), now());
            assert_eq!(row.cells[1], cell);
        }
    }

    #[test]
    fn a_slice_tells_its_ports_apart_from_its_addresses() {
        let slice = json!({"addressType": "IPv4", "ports": [{"port": 6443}, {}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]});
        let row = slice_cells(&slice, now());
        assert_eq!(
            row.cells[1..4],
            [json!("IPv4"), json!("6443,*"), json!("10.0.0.1,10.0.0.2")]
        );
        let row = slice_cells(&json!({}), now());
        assert_eq!(row.cells[2..4], [json!("<unset>"), json!("<unset>")]);
    }
}
