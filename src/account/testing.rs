//! Accounts for tests, with a key of their own.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use super::{Accounts, Settings, SigningKey};
use crate::model::Timestamp;
use crate::store::Store;

pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

pub(crate) fn key() -> SigningKey {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    SigningKey::from_pem(&pair.serialize_pem()).unwrap()
}

pub(crate) fn accounts(store: &Store, clock: fn() -> Timestamp) -> Accounts {
    let settings = Settings {
        issuer: ISSUER.to_owned(),
        node_name: "node-1".to_owned(),
        clock,
    };
    Accounts::new(store.clone(), key(), settings)
}
