//! The key that tokens are signed with: ECDSA on P-256, `ES256` in the words of JWT.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The algorithm, as JWT and JWK name it.
pub(super) const ALGORITHM: &str = "ES256";

/// What stands before the point in the DER of a public key on P-256 (RFC 5480).
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of a coordinate.
const COORDINATE: usize = 32;

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the key is no PEM of a PKCS #8 private key")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("the key is none of ECDSA on P-256: {why}")]
    Rejected { why: String },
    #[error("nothing can be signed")]
    Sign,
}

/// Signs tokens, and knows its own signatures again.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    id: String,
}

impl fmt::Debug for SigningKey {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Read a private key: PEM of PKCS #8, on P-256.
    ///
    /// # Errors
    /// It is none.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(KeyError::Pem)?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|error| KeyError::Rejected { why: error.to_string() })?;
        let mut public = SPKI.to_vec();
        public.extend_from_slice(pair.public_key().as_ref());
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(Sha256::digest(public)),
            pair,
            random,
        })
    }

    /// `kid`: the hash of the public key, as a kube-apiserver makes it (`pkg/serviceaccount`, `keyIDFromPublicKey`).
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public half as a JWK (RFC 7517).
    pub fn public(&self) -> Value {
        // Uncompressed: 4, then both coordinates.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(COORDINATE);
        json!({
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": ALGORITHM,
            "x": URL_SAFE_NO_PAD.encode(x),
            "y": URL_SAFE_NO_PAD.encode(y),
        })
    }

    pub(super) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
        let signature = self
            .pair
            .sign(&self.random, bytes)
            .map_err(|_unspecified| KeyError::Sign)?;
        Ok(signature.as_ref().to_vec())
    }

    pub(super) fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(bytes, signature)
            .is_ok()
    }
}
