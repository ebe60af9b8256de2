//! Places: what pods take of the machine.

use super::*;
use crate::model::{Amount, ClaimedPort, Protocol};

const POOL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 3, 254));

fn room() -> Allocatable {
    Allocatable {
        cpu_milli: 2000,
        memory: 1000,
        storage: 500,
        pods: 3,
        hugepages: [(2, 10)].into(),
    }
}

fn claim(cpu_milli: u64, memory: u64) -> Claim {
    Claim {
        cpu_milli,
        memory,
        ..Claim::default()
    }
}

fn with_ports(ports: &[(Option<&str>, u16, Protocol)]) -> Claim {
    let ports = ports.iter().map(|(ip, port, protocol)| ClaimedPort {
        protocol: *protocol,
        port: *port,
        ip: ip.map(|ip| ip.parse().unwrap()),
    });
    Claim {
        ports: ports.collect(),
        ..Claim::default()
    }
}

async fn take(store: &Store, n: u32, claim: Claim) -> Option<Lack> {
    match store
        .take_place(&uid(n), claim, Some(room()), Some(POOL))
        .await
        .unwrap()
    {
        Place::Taken(ip) => {
            assert!(ip.is_some());
            None
        }
        Place::Refused(lack) => Some(lack),
    }
}

fn lack(of: Amount, requested: u64, used: u64, capacity: u64) -> Lack {
    Lack::Amount {
        of,
        requested,
        used,
        capacity,
    }
}

#[tokio::test]
async fn what_all_take_together_is_never_more_than_there_is() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    assert_eq!(take(&store, 1, claim(1500, 1)).await, None);
    // Its own place is not in its way, and the first word counts.
    assert_eq!(take(&store, 1, claim(9000, 1)).await, None);
    assert_eq!(
        take(&store, 2, claim(501, 1)).await,
        Some(lack(Amount::Cpu, 501, 1500, 2000))
    );
    assert_eq!(
        take(&store, 2, claim(500, 1000)).await,
        Some(lack(Amount::Memory, 1000, 1, 1000))
    );
    // Of what is refused nothing is taken: the last amount is there still, for another agent too.
    drop(store);
    let store = scratch.open().await;
    assert_eq!(take(&store, 3, claim(500, 999)).await, None);
    // Who asks for none of it fits, however little is left.
    assert_eq!(take(&store, 4, claim(0, 0)).await, None);
    assert_eq!(take(&store, 5, claim(0, 0)).await, Some(lack(Amount::Pods, 1, 3, 3)));
    store.release_place(&uid(3)).await.unwrap();
    assert_eq!(take(&store, 5, claim(500, 999)).await, None);
    assert_eq!(store.pod_uids().await.unwrap(), [uid(1), uid(4), uid(5)]);
}

#[tokio::test]
async fn storage_and_huge_pages_are_counted_too() {
    let (store, _scratch) = fresh().await;
    let storage = |storage| Claim {
        storage,
        ..Claim::default()
    };
    let pages = |size, bytes| Claim {
        hugepages: [(size, bytes)].into(),
        ..Claim::default()
    };
    assert_eq!(take(&store, 1, storage(400)).await, None);
    assert_eq!(
        take(&store, 2, storage(101)).await,
        Some(lack(Amount::Storage, 101, 400, 500))
    );
    assert_eq!(take(&store, 2, pages(2, 6)).await, None);
    assert_eq!(
        take(&store, 3, pages(2, 6)).await,
        Some(lack(Amount::Hugepages(2), 6, 6, 10))
    );
    assert_eq!(
        take(&store, 3, pages(8, 1)).await,
        Some(lack(Amount::Hugepages(8), 1, 0, 0))
    );
    store.release_place(&uid(2)).await.unwrap();
    assert_eq!(take(&store, 3, pages(2, 6)).await, None);
}

#[tokio::test]
async fn a_port_is_one_pods_alone() {
    use Protocol::{Sctp, Tcp, Udp};
    let (one, other) = (Some("10.9.0.1"), Some("10.9.0.2"));
    for (has, asks, fits) in [
        ((None, 80, Tcp), (None, 80, Tcp), false),
        ((None, 80, Tcp), (None, 81, Tcp), true),
        ((None, 80, Tcp), (None, 80, Udp), true),
        ((None, 80, Sctp), (None, 80, Udp), true),
        // Every address and one address are in each other's way; two are not.
        ((None, 80, Tcp), (one, 80, Tcp), false),
        ((one, 80, Tcp), (None, 80, Tcp), false),
        ((one, 80, Tcp), (one, 80, Tcp), false),
        ((one, 80, Tcp), (other, 80, Tcp), true),
        ((one, 80, Tcp), (other, 80, Udp), true),
    ] {
        let (store, _scratch) = fresh().await;
        assert_eq!(take(&store, 1, with_ports(&[has])).await, None);
        let expected = (!fits).then_some(Lack::HostPorts);
        assert_eq!(
            take(&store, 2, with_ports(&[(None, 9, Tcp), asks])).await,
            expected,
            "{has:?} {asks:?}"
        );
        // Nothing of a refused one is held, not even the port that was free.
        let free = if fits { Some(Lack::HostPorts) } else { None };
        assert_eq!(
            take(&store, 3, with_ports(&[(None, 9, Tcp)])).await,
            free,
            "{has:?} {asks:?}"
        );
        store.release_place(&uid(1)).await.unwrap();
        store.release_place(&uid(3)).await.unwrap();
        assert_eq!(take(&store, 2, with_ports(&[asks])).await, None);
    }
}

#[tokio::test]
async fn the_last_place_is_taken_once_however_many_ask_at_once() {
    for round in 0..20 {
        let (store, _scratch) = fresh().await;
        assert_eq!(take(&store, 100, claim(1500, 0)).await, None);
        let asked = (0..16).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { take(&store, n, claim(500, 0)).await })
        });
        let answers: Vec<_> = join_all(asked).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers.iter().filter(|lack| lack.is_none()).count(), 1, "{round}");
        let refused = Some(lack(Amount::Cpu, 500, 2000, 2000));
        assert_eq!(answers.iter().filter(|lack| **lack == refused).count(), 15, "{round}");
    }
}

#[tokio::test]
async fn without_an_address_nothing_is_taken() {
    let (store, _scratch) = fresh().await;
    let pool = Some((POOL.0, POOL.0));
    let taken = store.take_place(&uid(1), claim(100, 0), Some(room()), pool).await;
    assert_eq!(taken.unwrap(), Place::Taken(Some(POOL.0)));
    let error = store
        .take_place(&uid(2), claim(1900, 0), Some(room()), pool)
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::NoAddress { .. }), "{error}");
    // On the host's network none is needed.
    let taken = store.take_place(&uid(3), claim(1900, 0), Some(room()), None).await;
    assert_eq!(taken.unwrap(), Place::Taken(None));
}

#[tokio::test]
async fn a_pod_that_is_there_already_is_counted_however_little_there_is() {
    let (store, _scratch) = fresh().await;
    for n in 1..=5 {
        let taken = store.take_place(&uid(n), claim(u64::MAX, u64::MAX), None, None).await;
        assert_eq!(taken.unwrap(), Place::Taken(None));
    }
    assert_eq!(take(&store, 6, claim(0, 0)).await, Some(lack(Amount::Pods, 1, 5, 3)));
}

#[tokio::test]
async fn pods_with_a_sandbox_and_no_claim_are_found() {
    let (store, _scratch) = fresh().await;
    for n in 1..=4 {
        make(&store, n).await;
        let mut after = observed::full(1);
        after.torn_down = n == 3;
        if n == 4 {
            after.sandbox = None;
        }
        store
            .save_observed(&uid(n), &Observed::default(), &after)
            .await
            .unwrap();
    }
    assert_eq!(take(&store, 1, claim(1, 1)).await, None);
    assert_eq!(store.unclaimed().await.unwrap(), [uid(2)]);
}

#[tokio::test]
async fn a_resize_takes_the_greater_part_until_it_is_settled() {
    let (store, _scratch) = fresh().await;
    assert_eq!(take(&store, 1, claim(500, 100)).await, None);
    assert_eq!(take(&store, 2, claim(500, 100)).await, None);
    let raise = async |n, claim| store.raise_place(&uid(n), claim, room()).await.unwrap();
    assert_eq!(
        raise(1, claim(1501, 100)).await,
        Some(lack(Amount::Cpu, 1501, 500, 2000))
    );
    // Less memory, more cpu: both count until it is done.
    assert_eq!(raise(1, claim(1500, 10)).await, None);
    assert_eq!(
        take(&store, 3, claim(1, 1)).await,
        Some(lack(Amount::Cpu, 1, 2000, 2000))
    );
    assert_eq!(
        take(&store, 3, claim(0, 801)).await,
        Some(lack(Amount::Memory, 801, 200, 1000))
    );
    store.settle_place(&uid(1), claim(1500, 10)).await.unwrap();
    assert_eq!(take(&store, 3, claim(0, 890)).await, None);
    // Who wants no more than it has is not held up by others who have too much.
    store.settle_place(&uid(2), claim(5000, 100)).await.unwrap();
    assert_eq!(raise(1, claim(1500, 10)).await, None);
    assert_eq!(raise(1, claim(1400, 10)).await, None);
    // Nothing is settled of one that has no place.
    store.release_place(&uid(1)).await.unwrap();
    store.settle_place(&uid(1), claim(1, 1)).await.unwrap();
    assert_eq!(store.pod_uids().await.unwrap(), [uid(2), uid(3)]);
}

#[tokio::test]
async fn nobody_is_turned_away_for_a_pod_that_is_over() {
    let (store, _scratch) = fresh().await;
    for n in 1..=3 {
        let object = json!({"metadata": {"name": format!("p{n}")}});
        let made = store.create("Pod", "default", &format!("p{n}"), &uid(n), object).await;
        made.unwrap();
        assert_eq!(take(&store, n, claim(0, 0)).await, None);
    }
    let refused = Some(lack(Amount::Pods, 1, 3, 3));
    assert_eq!(take(&store, 4, claim(0, 0)).await, refused);
    store.set_status(&uid(2), json!({"phase": "Running"})).await.unwrap();
    assert_eq!(take(&store, 4, claim(0, 0)).await, refused);
    store.set_status(&uid(2), json!({"phase": "Succeeded"})).await.unwrap();
    assert_eq!(take(&store, 4, claim(0, 0)).await, None);
    assert_eq!(take(&store, 5, claim(0, 0)).await, refused);
}
