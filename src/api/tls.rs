//! podd's own certificates: an authority, the server's certificate, an administrator's, and the kubeconfig that holds it;
//! and the key that tokens of service accounts are signed with.
//!
//! Goes in: the state directory, the address the server listens on, the time. Comes out: files beneath `ROOT/pki`,
//! `ROOT/admin.kubeconfig`, and what the TLS listener needs.
//!
//! **Invariants:** a key is never readable by anyone but its owner, not for a moment. The authority is made once: as long
//! as its files are there they are used, and if they cannot be, that is an error, since a new authority would shut out
//! everyone who holds a certificate of the old one. The same holds for the key of service accounts and their tokens.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use jiff::tz::TimeZone;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName as TlsName, RootCertStore, ServerConfig, SignatureScheme,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use sha2::{Digest, Sha256};

use super::answer::hex;
use super::auth::identity::MASTERS;
use super::auth::{Bearers, Identity, private};
use super::guard::{Hosts, Shown};
use crate::account::{KeyError, SigningKey};
use crate::model::Timestamp;

/// Days a certificate of the authority itself holds.
const CA_DAYS: i64 = 3650;
/// Days a certificate made by it holds.
const LEAF_DAYS: i64 = 1825;
/// A certificate with fewer days left is made anew at the next start.
const RENEW_DAYS: i64 = 365;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read or write {path}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot make a certificate for {what}")]
    Make {
        what: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("{path} does not hold what it should; to have a new authority made, remove the whole directory")]
    Unreadable { path: PathBuf },
    #[error("{path} does not hold a key that tokens can be signed with; to have a new one made, remove it")]
    AccountKey {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error("the TLS configuration is refused")]
    Tls(#[source] rustls::Error),
    #[error("the client verifier is refused")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// What a client whose certificate's time is over is told.
pub(crate) const EXPIRED: &str = "the client certificate has expired";

/// The names that pods of any cluster know the API by.
const API_NAMES: [&str; 4] = [
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// The file of the key of service accounts, beneath `ROOT/pki`.
const ACCOUNT_KEY: &str = "sa.key";

/// podd's authority and the two certificates it made.
#[derive(Debug)]
pub struct Pki {
    ca: Pair,
    server: Pair,
    admin: Pair,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    directory: PathBuf,
}

/// What the TLS listener needs.
#[derive(Debug, Clone)]
pub struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) bearers: Bearers,
    verifier: Arc<AnyClient>,
}

impl Pki {
    /// Make what is missing or about to expire beneath `ROOT/pki`, and read the rest. Of `listen` the address counts;
    /// `gateway` is the address that pods reach the API by, if they do.
    ///
    /// # Errors
    /// Files that cannot be read or written, and an authority that is there but not whole.
    pub fn open(
        root: &Path,
        node_name: &str,
        listen: SocketAddr,
        gateway: Option<Ipv4Addr>,
        now: Timestamp,
    ) -> Result<Self, PkiError> {
        let directory = root.join("pki");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| PkiError::File {
                path: directory.clone(),
                source,
            })?;
        let ca = authority(&directory, node_name, now)?;
        let addresses: Vec<IpAddr> = [Some(listen.ip()), gateway.map(IpAddr::V4)]
            .into_iter()
            .flatten()
            .filter(|address| !address.is_unspecified())
            .collect();
        let names = server_names(&addresses, node_name);
        let server = leaf(&directory, "server", &ca, now, &server_params(&names, now)?, &names)?;
        let admin = leaf(&directory, "admin", &ca, now, &admin_params(now)?, &[])?;
        let names = API_NAMES.into_iter().chain([node_name]).map(str::to_owned);
        Ok(Self {
            ca,
            server,
            admin,
            names: names.collect(),
            addresses,
            directory,
        })
    }

    /// The authority's certificate, as PEM: what a client needs to trust the server.
    pub fn authority(&self) -> &str {
        &self.ca.certificate
    }

    /// Write the administrator's kubeconfig for the address that was bound; mode 0600.
    pub fn write_kubeconfig(&self, path: &Path, listening: SocketAddr) -> Result<(), PkiError> {
        write_private(path, kubeconfig(listening, &self.ca, &self.admin).as_bytes())
    }

    /// The key that tokens of service accounts are signed with, made the first time: `ROOT/pki/sa.key`.
    ///
    /// # Errors
    /// The file cannot be read or written, or holds something else.
    pub fn account_key(&self) -> Result<SigningKey, PkiError> {
        let path = self.directory.join(ACCOUNT_KEY);
        let pem = if let Some(pem) = read(&path)? {
            pem
        } else {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| PkiError::Make {
                what: "service accounts",
                source,
            })?;
            let pem = key.serialize_pem();
            write_private(&path, pem.as_bytes())?;
            pem
        };
        SigningKey::from_pem(&pem).map_err(|source| PkiError::AccountKey { path, source })
    }

    /// What the listener needs; whose a bearer's token is, `bearers` say.
    pub fn server_config(&self, bearers: Bearers) -> Result<Tls, PkiError> {
        let (config, verifier) = tls(&self.ca, &self.server)?;
        let hosts = Hosts {
            names: self.names.clone(),
            addresses: self.addresses.clone(),
        };
        Ok(Tls {
            config: Arc::new(config),
            hosts: Arc::new(hosts),
            bearers,
            verifier,
        })
    }
}

/// What a certificate's fingerprint is called in an identity's extra values (`apiserver/pkg/authentication/user`).
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

impl Tls {
    /// Who the client is by its certificate chain, or why it is not believed.
    pub(crate) fn identify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Shown {
        let Some((leaf, others)) = chain.split_first() else {
            return Shown::Nothing;
        };
        if let Err(error) = self.verifier.inner.verify_client_cert(leaf, others, now) {
            return Shown::Refused(refusal(&error));
        }
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
            return Shown::Refused("the client certificate cannot be read");
        };
        let subject = certificate.subject();
        let user = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
        let Some(user) = user.filter(|name| !name.is_empty()) else {
            return Shown::Refused("the client certificate has no common name");
        };
        let groups = subject.iter_organization().filter_map(|o| o.as_str().ok());
        let fingerprint = format!("X509SHA256={}", hex(&Sha256::digest(leaf)));
        Shown::Known {
            identity: Arc::new(Identity {
                user: user.to_owned(),
                uid: String::new(),
                groups: groups.map(str::to_owned).collect(),
                extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![fingerprint])]),
            }),
            until: u64::try_from(certificate.validity().not_after.timestamp()).ok(),
        }
    }
}

/// What a client is told of a certificate that is not believed.
fn refusal(error: &rustls::Error) -> &'static str {
    let rustls::Error::InvalidCertificate(error) = error else {
        return "the client certificate is refused";
    };
    if matches!(
        error,
        CertificateError::Expired | CertificateError::ExpiredContext { .. }
    ) {
        EXPIRED
    } else if matches!(
        error,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
    ) {
        "the client certificate is not valid yet"
    } else if matches!(error, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
        "the client certificate was not made by this server's authority"
    } else if matches!(
        error,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. }
    ) {
        "the certificate is not a client's"
    } else {
        "the client certificate is refused"
    }
}

/// Lets every client finish its handshake, so that one without a good certificate is told so in words (401) rather than
/// by a broken connection. Who it is decides [`Tls::identify`], by the same rules.
#[derive(Debug)]
struct AnyClient {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[TlsName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// A certificate and its key, both PEM.
struct Pair {
    certificate: String,
    key: String,
}

impl fmt::Debug for Pair {
    /// Never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

fn authority(directory: &Path, node_name: &str, now: Timestamp) -> Result<Pair, PkiError> {
    let (certificate_path, key_path) = (directory.join("ca.crt"), directory.join("ca.key"));
    // The key is written first: where the certificate is, the authority is whole.
    if let Some(certificate) = read(&certificate_path)? {
        let key = read(&key_path)?.ok_or_else(|| PkiError::Unreadable { path: key_path.clone() })?;
        let unreadable = |path: &Path| PkiError::Unreadable { path: path.to_owned() };
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| unreadable(&certificate_path))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| unreadable(&certificate_path))?;
        let pair = KeyPair::from_pem(&key).map_err(|_| unreadable(&key_path))?;
        if parsed.public_key().raw != pair.subject_public_key_info() {
            return Err(unreadable(&key_path));
        }
        return Ok(Pair { certificate, key });
    }
    let make = |source| PkiError::Make {
        what: "the authority",
        source,
    };
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.distinguished_name = DistinguishedName::new();
    // The time makes the name of each authority its own: a client knows by name whether its certificate is of this one.
    params
        .distinguished_name
        .push(DnType::CommonName, format!("podd-ca-{node_name}-{}", now.as_second()));
    lifetime(&mut params, now, CA_DAYS);
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
    let certificate = params.self_signed(&key).map_err(make)?.pem();
    let pair = Pair {
        certificate,
        key: key.serialize_pem(),
    };
    write_private(&key_path, pair.key.as_bytes())?;
    write_private(&certificate_path, pair.certificate.as_bytes())?;
    Ok(pair)
}

fn lifetime(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let day = |offset: i64| {
        let at = now.checked_add(SignedDuration::from_hours(24 * offset)).unwrap_or(now);
        let date = at.to_zoned(TimeZone::UTC).date();
        rcgen::date_time_ymd(
            i32::from(date.year()),
            date.month().unsigned_abs(),
            date.day().unsigned_abs(),
        )
    };
    // From yesterday: a client whose clock is late can use it at once.
    params.not_before = day(-1);
    params.not_after = day(days);
}

/// The names of the server's certificate, sorted.
fn server_names(addresses: &[IpAddr], node_name: &str) -> Vec<String> {
    let mut names = vec!["127.0.0.1".to_owned(), "::1".to_owned(), "localhost".to_owned()];
    names.extend(API_NAMES.map(str::to_owned));
    if !node_name.is_empty() {
        names.push(node_name.to_ascii_lowercase());
    }
    names.extend(addresses.iter().map(ToString::to_string));
    names.sort();
    names.dedup();
    names
}

fn server_params(names: &[String], now: Timestamp) -> Result<CertificateParams, PkiError> {
    let make = |source| PkiError::Make {
        what: "the server",
        source,
    };
    let mut params = CertificateParams::new(names).map_err(make)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "podd");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    lifetime(&mut params, now, LEAF_DAYS);
    Ok(params)
}

fn admin_params(now: Timestamp) -> Result<CertificateParams, PkiError> {
    let make = |source| PkiError::Make {
        what: "the administrator",
        source,
    };
    let mut params = CertificateParams::new(Vec::<String>::new()).map_err(make)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, MASTERS);
    params.distinguished_name.push(DnType::CommonName, "podd-admin");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    lifetime(&mut params, now, LEAF_DAYS);
    Ok(params)
}

/// The certificate that is there, if it still serves; else a new one.
///
/// `names` are the alternative names in `params`, sorted.
fn leaf(
    directory: &Path,
    name: &'static str,
    ca: &Pair,
    now: Timestamp,
    params: &CertificateParams,
    names: &[String],
) -> Result<Pair, PkiError> {
    let (certificate_path, key_path) = (
        directory.join(format!("{name}.crt")),
        directory.join(format!("{name}.key")),
    );
    if let (Some(certificate), Some(key)) = (read(&certificate_path)?, read(&key_path)?) {
        let pair = Pair { certificate, key };
        if still_serves(&pair, ca, now, names) {
            return Ok(pair);
        }
    }
    let make = |source| PkiError::Make { what: name, source };
    let ca_key = KeyPair::from_pem(&ca.key).map_err(make)?;
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, ca_key).map_err(make)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
    let certificate = params.clone().signed_by(&key, &issuer).map_err(make)?.pem();
    let pair = Pair {
        certificate,
        key: key.serialize_pem(),
    };
    write_private(&key_path, pair.key.as_bytes())?;
    write_private(&certificate_path, pair.certificate.as_bytes())?;
    Ok(pair)
}

fn still_serves(pair: &Pair, ca: &Pair, now: Timestamp, names: &[String]) -> bool {
    let check = || -> Option<bool> {
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let ca_der = CertificateDer::from_pem_slice(ca.certificate.as_bytes()).ok()?;
        let (_, ca) = X509Certificate::from_der(&ca_der).ok()?;
        let key = KeyPair::from_pem(&pair.key).ok()?;
        let left = certificate.validity().not_after.timestamp() - now.as_second();
        let mut found: Vec<String> = certificate
            .subject_alternative_name()
            .ok()?
            .map(|san| san.value.general_names.iter().filter_map(alternative_name).collect())
            .unwrap_or_default();
        found.sort();
        Some(
            certificate.issuer() == ca.subject()
                && certificate.verify_signature(Some(ca.public_key())).is_ok()
                && certificate.public_key().raw == key.subject_public_key_info()
                && left > RENEW_DAYS * 86_400
                && found == names,
        )
    };
    check().unwrap_or(false)
}

fn alternative_name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some((*name).to_owned());
    }
    let GeneralName::IPAddress(bytes) = name else {
        return None;
    };
    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
        .ok()
        .map(|ip| ip.to_string())
}

fn tls(ca: &Pair, server: &Pair) -> Result<(ServerConfig, Arc<AnyClient>), PkiError> {
    let unreadable = |name: &str| PkiError::Unreadable {
        path: PathBuf::from(name),
    };
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).map_err(|_| unreadable("ca.crt"))?)
        .map_err(PkiError::Tls)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(PkiError::Verifier)?;
    let verifier = Arc::new(AnyClient { inner });
    let chain =
        vec![CertificateDer::from_pem_slice(server.certificate.as_bytes()).map_err(|_| unreadable("server.crt"))?];
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).map_err(|_| unreadable("server.key"))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(PkiError::Tls)?
        .with_client_cert_verifier(Arc::clone(&verifier) as Arc<dyn ClientCertVerifier>)
        .with_single_cert(chain, key)
        .map_err(PkiError::Tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((config, verifier))
}

fn kubeconfig(listen: SocketAddr, ca: &Pair, admin: &Pair) -> String {
    let reachable = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(IpAddr::from([127, 0, 0, 1]), listen.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), listen.port())
        }
        IpAddr::V4(_) | IpAddr::V6(_) => listen,
    };
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: podd\n  cluster:\n    server: https://{reachable}\n    \
         certificate-authority-data: {ca}\nusers:\n- name: podd-admin\n  user:\n    client-certificate-data: {certificate}\n    \
         client-key-data: {key}\ncontexts:\n- name: podd\n  context:\n    cluster: podd\n    user: podd-admin\n    \
         namespace: default\ncurrent-context: podd\n",
        ca = STANDARD.encode(&ca.certificate),
        certificate = STANDARD.encode(&admin.certificate),
        key = STANDARD.encode(&admin.key),
    )
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    private::write(path, bytes).map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().unwrap()
    }

    async fn bearers(root: &Path) -> Bearers {
        let store = crate::store::Store::open(&root.join("podd.db")).await.unwrap();
        Bearers::open(root, Arc::new(crate::account::testing::accounts(&store, now)))
    }

    async fn prepare(root: &Path, listen: SocketAddr, node_name: &str, now: Timestamp) -> Result<Tls, PkiError> {
        let pki = Pki::open(root, node_name, listen, None, now)?;
        pki.write_kubeconfig(&root.join("admin.kubeconfig"), listen)?;
        pki.server_config(bearers(root).await)
    }

    fn unix(at: Timestamp) -> UnixTime {
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(at.as_second().unsigned_abs()))
    }

    fn listen() -> SocketAddr {
        "127.0.0.1:7443".parse().unwrap()
    }

    fn chain(root: &Path, name: &str) -> Vec<CertificateDer<'static>> {
        let pem = fs::read(root.join("pki").join(name)).unwrap();
        vec![CertificateDer::from_pem_slice(&pem).unwrap()]
    }

    #[tokio::test]
    async fn files_are_made_once_and_private() {
        let root = tempfile::tempdir().unwrap();
        prepare(root.path(), listen(), "node-1", now()).await.unwrap();
        let contents = || {
            [
                "pki/ca.crt",
                "pki/ca.key",
                "pki/server.crt",
                "pki/server.key",
                "pki/admin.crt",
                "pki/admin.key",
                "admin.kubeconfig",
            ]
            .map(|f| fs::read(root.path().join(f)).unwrap())
        };
        let first = contents();
        prepare(root.path(), listen(), "node-1", now()).await.unwrap();
        assert_eq!(contents(), first);
        for file in ["pki/ca.key", "pki/server.key", "pki/admin.key", "admin.kubeconfig"] {
            let mode = fs::metadata(root.path().join(file)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        assert_eq!(
            fs::metadata(root.path().join("pki")).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[tokio::test]
    async fn the_administrator_is_known_by_certificate_and_nobody_else_is() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pki = prepare(root.path(), listen(), "node-1", now()).await.unwrap();
        prepare(other.path(), listen(), "node-1", now()).await.unwrap();
        let whole = chain(root.path(), "admin.crt");
        let Shown::Known { identity, until } = pki.identify(&whole, unix(now())) else {
            panic!("the administrator is not known");
        };
        assert_eq!(
            (identity.user.as_str(), &identity.groups),
            ("podd-admin", &vec![MASTERS.to_owned()])
        );
        let fingerprint = &identity.extra[CREDENTIAL_ID][0];
        assert_eq!(fingerprint.len(), "X509SHA256=".len() + 64);
        assert!(until.unwrap() > unix(now()).as_secs());
        assert_eq!(pki.identify(&[], unix(now())), Shown::Nothing);
        let refused = |chain: &[CertificateDer<'_>], at: Timestamp| match pki.identify(chain, unix(at)) {
            Shown::Refused(why) => why,
            other @ (Shown::Nothing | Shown::Known { .. }) => panic!("{other:?}"),
        };
        assert_eq!(
            refused(&chain(other.path(), "admin.crt"), now()),
            "the client certificate was not made by this server's authority"
        );
        assert_eq!(
            refused(&chain(root.path(), "server.crt"), now()),
            "the certificate is not a client's"
        );
        let days = |days: i64| now().checked_add(SignedDuration::from_hours(24 * days)).unwrap();
        assert_eq!(
            refused(&whole, days(LEAF_DAYS + 2)),
            "the client certificate has expired"
        );
        assert_eq!(refused(&whole, days(-3)), "the client certificate is not valid yet");
    }

    #[tokio::test]
    async fn the_server_certificate_follows_its_names_and_its_age() {
        let root = tempfile::tempdir().unwrap();
        prepare(root.path(), listen(), "node-1", now()).await.unwrap();
        let server = || fs::read(root.path().join("pki/server.crt")).unwrap();
        let (first, ca) = (server(), fs::read(root.path().join("pki/ca.crt")).unwrap());
        prepare(root.path(), "10.1.2.3:7443".parse().unwrap(), "node-1", now())
            .await
            .unwrap();
        let second = server();
        assert_ne!(first, second);
        let later = now()
            .checked_add(SignedDuration::from_hours(24 * (LEAF_DAYS - RENEW_DAYS + 1)))
            .unwrap();
        prepare(root.path(), "10.1.2.3:7443".parse().unwrap(), "node-1", later)
            .await
            .unwrap();
        assert_ne!(second, server());
        assert_eq!(ca, fs::read(root.path().join("pki/ca.crt")).unwrap());
    }

    #[tokio::test]
    async fn an_authority_in_pieces_is_not_replaced_in_silence() {
        let root = tempfile::tempdir().unwrap();
        prepare(root.path(), listen(), "node-1", now()).await.unwrap();
        fs::write(root.path().join("pki/ca.key"), "nonsense").unwrap();
        assert!(matches!(
            prepare(root.path(), listen(), "node-1", now()).await,
            Err(PkiError::Unreadable { .. })
        ));
    }

    #[tokio::test]
    async fn a_server_for_every_address_is_reached_on_loopback() {
        let root = tempfile::tempdir().unwrap();
        prepare(root.path(), "0.0.0.0:9".parse().unwrap(), "node-1", now())
            .await
            .unwrap();
        let text = fs::read_to_string(root.path().join("admin.kubeconfig")).unwrap();
        assert!(text.contains("server: https://127.0.0.1:9\n"));
        let parsed: serde_json::Value = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(parsed["users"][0]["name"], "podd-admin");
    }
}
