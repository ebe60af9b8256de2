//! How often an address may show a wrong token.
//!
//! Each address has some tries, which come back one by one. Without any left it is told to wait before its token is even
//! looked at, so that a right one cannot be told from a wrong one by trying fast.
//!
//! **Invariant:** a fixed number of addresses is remembered; when there are more, all the others share one count.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Wrong tokens that an address may show at once.
const TRIES: u32 = 20;
/// How long until it has one more.
const ONE_MORE: Duration = Duration::from_secs(1);
/// Addresses remembered; each costs less than a hundred bytes.
const ADDRESSES: usize = 4096;

/// Counts wrong tokens by address.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// When each address will have all its tries again.
    recovered: Mutex<HashMap<Option<IpAddr>, Instant>>,
}

impl Throttle {
    /// `Err`: how long this address has to wait.
    pub(crate) fn check(&self, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let recovered = self.recovered.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(at) = recovered.get(&key(&recovered, address)) else {
            return Ok(());
        };
        let spent = at.saturating_duration_since(now);
        match (spent + ONE_MORE).checked_sub(ONE_MORE * TRIES) {
            Some(wait) if !wait.is_zero() => Err(wait),
            Some(_) | None => Ok(()),
        }
    }

    /// This address showed a wrong token.
    pub(crate) fn failed(&self, address: Option<IpAddr>, now: Instant) {
        let mut recovered = self.recovered.lock().unwrap_or_else(PoisonError::into_inner);
        if recovered.len() >= ADDRESSES {
            recovered.retain(|_, at| *at > now);
        }
        let key = key(&recovered, address);
        let at = recovered.entry(key).or_insert(now);
        *at = (*at).max(now) + ONE_MORE;
    }
}

/// Whose count it is: who has one IPv6 address has 2^64 of them.
fn key(known: &HashMap<Option<IpAddr>, Instant>, address: Option<IpAddr>) -> Option<IpAddr> {
    let key = address.map(|address| match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    });
    if known.len() >= ADDRESSES && !known.contains_key(&key) {
        return None;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const ONE: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
    const OTHER: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)));

    #[test]
    fn an_address_that_guesses_has_to_wait_and_others_do_not() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        for _ in 0..TRIES {
            assert_eq!(throttle.check(ONE, start), Ok(()));
            throttle.failed(ONE, start);
        }
        assert_eq!(throttle.check(ONE, start), Err(ONE_MORE));
        assert_eq!(throttle.check(OTHER, start), Ok(()));
        assert_eq!(throttle.check(ONE, start + ONE_MORE), Ok(()));
        throttle.failed(ONE, start + ONE_MORE);
        assert!(throttle.check(ONE, start + ONE_MORE).is_err());
    }

    #[test]
    fn a_network_of_ipv6_addresses_counts_as_one() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for last in 0..TRIES {
            throttle.failed(Some(format!("2001:db8::{last:x}").parse().unwrap()), now);
        }
        assert!(throttle.check(Some("2001:db8::ffff".parse().unwrap()), now).is_err());
        assert!(throttle.check(Some("2001:db8:0:1::1".parse().unwrap()), now).is_ok());
    }

    #[test]
    fn more_addresses_than_are_remembered_share_one_count() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..u32::try_from(ADDRESSES).unwrap() + TRIES {
            throttle.failed(Some(IpAddr::from(n.to_be_bytes())), now);
        }
        assert!(throttle.recovered.lock().unwrap().len() <= ADDRESSES + 1);
        assert!(throttle.check(ONE, now).is_err());
        let later = now + ONE_MORE * (TRIES + 1);
        assert!(throttle.check(ONE, later).is_ok());
        throttle.failed(ONE, later);
        assert!(throttle.recovered.lock().unwrap().len() < ADDRESSES);
    }
}
