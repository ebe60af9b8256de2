//! The range of addresses that pods get theirs from: pure arithmetic.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An IPv4 network, `10.244.0.0/22`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// The shortest and the longest prefix that leave a sensible number of pods.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=30;

impl Cidr {
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The first address: the bridge's.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// First and last address for pods: between the gateway and the broadcast address.
    pub fn pool(self) -> (Ipv4Addr, Ipv4Addr) {
        let last = u32::from(self.network) | (u32::MAX >> self.prefix);
        (Ipv4Addr::from(u32::from(self.network) + 2), Ipv4Addr::from(last - 1))
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & !(u32::MAX >> self.prefix) == u32::from(self.network)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// A range that pods cannot get addresses from.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CidrError {
    #[error("pod-cidr: {0:?} is not an IPv4 range such as 10.244.0.0/22")]
    Malformed(String),
    #[error("pod-cidr: the prefix of {0:?} must be between /8 and /30")]
    Prefix(String),
    #[error("pod-cidr: {given:?} names an address inside a range: did you mean {meant}?")]
    HostBits { given: String, meant: Cidr },
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (network, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let network: Ipv4Addr = network.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().map_err(|_| malformed())?;
        if !PREFIXES.contains(&prefix) {
            return Err(CidrError::Prefix(text.to_owned()));
        }
        let meant = Self { network: Ipv4Addr::from(u32::from(network) & !(u32::MAX >> prefix)), prefix };
        if meant.network != network {
            return Err(CidrError::HostBits { given: text.to_owned(), meant });
        }
        Ok(meant)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_range_holds_a_thousand_pods() {
        let cidr: Cidr = "10.244.0.0/22".parse().unwrap();
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 244, 0, 1));
        assert_eq!(cidr.pool(), (Ipv4Addr::new(10, 244, 0, 2), Ipv4Addr::new(10, 244, 3, 254)));
    }

    #[test]
    fn wrong_ranges_say_what_is_wrong() {
        for (text, word) in [
            ("10.0.0.0", "is not an IPv4 range"),
            ("fd00::/64", "is not an IPv4 range"),
            ("10.0.0.0/31", "between /8 and /30"),
            ("10.0.0.5/24", "did you mean 10.0.0.0/24"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn gateway_pool_and_broadcast_never_meet(address: u32, prefix in 8u8..=30) {
            let network = Ipv4Addr::from(address & !(u32::MAX >> prefix));
            let cidr: Cidr = format!("{network}/{prefix}").parse().unwrap();
            let (first, last) = cidr.pool();
            prop_assert!(cidr.gateway() < first && first <= last);
            prop_assert!(cidr.contains(first) && cidr.contains(last));
            prop_assert!(!cidr.contains(Ipv4Addr::from(u32::from(last).wrapping_add(2))));
            prop_assert_eq!(u32::from(last) - u32::from(first) + 3, u32::MAX >> prefix);
        }
    }
}
