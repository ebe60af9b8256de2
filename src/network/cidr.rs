//! The range of addresses that pods get theirs from.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Fewer would waste the machine's address space, more would leave no address for a pod.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=30;

/// An IPv4 network such as `10.244.0.0/22`: its host bits are zero and its prefix is 8 to 30.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: Ipv4Addr,
    prefix: u8,
}

impl Cidr {
    /// Bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The network's own address.
    pub fn base(self) -> Ipv4Addr {
        self.base
    }

    /// The first address: the bridge's, and the pods' way to everything else.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() + 1)
    }

    /// First and last address for pods: all but the network's, the gateway's and the broadcast address.
    pub fn pool(self) -> (Ipv4Addr, Ipv4Addr) {
        (
            Ipv4Addr::from_bits(self.base.to_bits() + 2),
            Ipv4Addr::from_bits(self.broadcast().to_bits() - 1),
        )
    }

    /// The last address.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | !mask(self.prefix))
    }

    pub fn contains(self, ip: Ipv4Addr) -> bool {
        ip.to_bits() & mask(self.prefix) == self.base.to_bits()
    }

    /// Whether some address is in both this network and `ip/prefix`.
    pub fn overlaps(self, ip: Ipv4Addr, prefix: u8) -> bool {
        (ip.to_bits() ^ self.base.to_bits()) & mask(self.prefix.min(prefix)) == 0
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let not_a_network = || CidrError::NotANetwork { text: text.to_owned() };
        let (ip, prefix) = text.split_once('/').ok_or_else(not_a_network)?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| not_a_network())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| *p <= 32).ok_or_else(not_a_network)?;
        if !PREFIXES.contains(&prefix) {
            return Err(CidrError::Prefix { text: text.to_owned() });
        }
        let cidr = Self {
            base: Ipv4Addr::from_bits(ip.to_bits() & mask(prefix)),
            prefix,
        };
        if cidr.base != ip {
            return Err(CidrError::HostBits {
                text: text.to_owned(),
                meant: cidr,
            });
        }
        let last = cidr.broadcast();
        if cidr.overlaps(Ipv4Addr::UNSPECIFIED, 8) || cidr.overlaps(Ipv4Addr::LOCALHOST, 8) || last.octets()[0] >= 224 {
            return Err(CidrError::NotForHosts { text: text.to_owned() });
        }
        Ok(cidr)
    }
}

/// A range that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    #[error("pod-cidr: {text:?} is not an IPv4 network such as 10.244.0.0/22")]
    NotANetwork { text: String },
    #[error("pod-cidr: the prefix of {text:?} must be 8 to 30")]
    Prefix { text: String },
    #[error("pod-cidr: {text:?} is an address in a network, not the network: did you mean {meant}?")]
    HostBits { text: String, meant: Cidr },
    #[error("pod-cidr: {text:?} is not a range that hosts can have")]
    NotForHosts { text: String },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_range() {
        let cidr: Cidr = "10.244.0.0/22".parse().unwrap();
        assert_eq!(cidr.gateway(), Ipv4Addr::new(10, 244, 0, 1));
        assert_eq!(
            cidr.pool(),
            (Ipv4Addr::new(10, 244, 0, 2), Ipv4Addr::new(10, 244, 3, 254))
        );
        assert_eq!(cidr.broadcast(), Ipv4Addr::new(10, 244, 3, 255));
        assert_eq!(cidr.to_string(), "10.244.0.0/22");
    }

    #[test]
    fn the_smallest_range_has_one_address_for_a_pod() {
        let cidr: Cidr = "192.168.7.4/30".parse().unwrap();
        assert_eq!(
            cidr.pool(),
            (Ipv4Addr::new(192, 168, 7, 6), Ipv4Addr::new(192, 168, 7, 6))
        );
    }

    #[test]
    fn each_wrong_range_says_what_is_wrong() {
        for (text, words) in [
            ("", "not an IPv4 network"),
            ("10.0.0.0", "not an IPv4 network"),
            ("10.0.0.0/33", "not an IPv4 network"),
            ("10.0.0.0/-1", "not an IPv4 network"),
            ("fd00::/64", "not an IPv4 network"),
            ("10.0.0/24", "not an IPv4 network"),
            ("10.0.0.0/7", "must be 8 to 30"),
            ("10.0.0.0/31", "must be 8 to 30"),
            ("10.244.0.1/22", "did you mean 10.244.0.0/22?"),
            ("127.0.0.0/8", "not a range that hosts can have"),
            ("0.0.0.0/8", "not a range that hosts can have"),
            ("224.0.0.0/8", "not a range that hosts can have"),
            ("255.255.255.0/24", "not a range that hosts can have"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(
                error.contains(words) && error.starts_with("pod-cidr: "),
                "{text}: {error}"
            );
        }
    }

    proptest! {
        #[test]
        fn addresses_of_a_network_are_ordered_and_apart(bits in 0x0100_0000_u32..0xe000_0000, prefix in 8_u8..=30) {
            let base = Ipv4Addr::from_bits(bits & mask(prefix));
            prop_assume!(base.octets()[0] != 127 && base.octets()[0] != 0);
            let cidr: Cidr = format!("{base}/{prefix}").parse().unwrap();
            let (first, last) = cidr.pool();
            prop_assert!(cidr.base() < cidr.gateway() && cidr.gateway() < first);
            prop_assert!(first <= last && last < cidr.broadcast());
            let size = u64::from(last.to_bits() - first.to_bits()) + 4;
            prop_assert_eq!(size, 1_u64 << (32 - prefix));
            for ip in [base, cidr.gateway(), first, last, cidr.broadcast()] {
                prop_assert!(cidr.contains(ip) && cidr.overlaps(ip, 32));
            }
            let after = Ipv4Addr::from_bits(cidr.broadcast().to_bits() + 1);
            prop_assert!(!cidr.contains(after) && !cidr.overlaps(after, prefix));
            prop_assert!(cidr.overlaps(after, 0));
        }
    }
}
