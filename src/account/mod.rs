//! Service accounts: tokens that say who a pod is, and what such a token is worth.
//!
//! Goes in: the store's service accounts, and the key that signs. Comes out: tokens ([`Accounts::issue`],
//! [`Accounts::token`]), and whose a token is ([`Accounts::verify`]). Claims, names and words are Kubernetes'
//! (`pkg/serviceaccount`). A token's life is what it says: none is prolonged behind its holder's back.
//!
//! **Invariants:** a token is never logged and never stored; of one that was shown only a hash is remembered. What a token
//! is bound to is looked at each time it is shown: with its account, its pod or its secret it is worth nothing any more.

mod claims;
mod directory;
mod key;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use claims::{Bound, Claims, Kubernetes};
pub use directory::Account;
pub use key::{KeyError, SigningKey};

use crate::model::{Timestamp, Token, TokenRequest, Uid};
use crate::store::{Store, StoreError, StoredObject};
use directory::{Directory, deletion_of};

/// What the user name of a service account begins with.
const USER: &str = "system:serviceaccount:";
/// The group of all service accounts.
pub const GROUP: &str = "system:serviceaccounts";
/// How long an object that is being deleted still counts after its time (`jwt.DefaultLeeway`).
const LEEWAY: SignedDuration = SignedDuration::from_secs(60);
/// Tokens remembered at most, of those issued to pods and of those shown.
const REMEMBERED: usize = 2048;
/// A token of a pod is replaced when so many percent of its life are over (`pkg/kubelet/token`, `requiresRefresh`).
const REFRESH_PERCENT: i64 = 80;

/// What this room is given.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `iss` of every token, and the audience that means the API itself.
    pub issuer: String,
    /// The node that pods are on.
    pub node_name: String,
    pub clock: fn() -> Timestamp,
}

/// A token cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("what the token is for cannot be read")]
    Store(#[source] StoreError),
    #[error("the token cannot be signed")]
    Key(#[source] KeyError),
}

/// Why a token is not believed. The words are Kubernetes'.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It is no token of these accounts at all; it may be one of somebody else.
    #[error("invalid bearer token")]
    Foreign,
    #[error("service account token has expired")]
    Expired,
    #[error("service account token is not valid yet")]
    TooEarly,
    #[error("token audiences {of_token:?} is invalid for the target audiences {wanted:?}")]
    Audience { of_token: Vec<String>, wanted: Vec<String> },
    #[error("serviceaccount {name:?} not found")]
    NoAccount { name: String },
    #[error("service account UID ({found}) does not match claim ({claimed})")]
    OtherAccount { found: String, claimed: String },
    #[error("service account token has been invalidated")]
    Invalidated,
    /// Nothing is known of it: that is no refusal of the token.
    #[error("what the token is bound to cannot be read")]
    Store(#[source] StoreError),
}

/// Whose a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    pub user: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
    /// Those of the wanted audiences that it is for.
    pub audiences: Vec<String>,
}

/// What a token is bound to beside its account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BoundTo {
    pub pod: Option<Bound>,
    pub secret: Option<Bound>,
    pub node: Option<Bound>,
}

/// A new token.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    pub text: String,
    pub issued_at: Timestamp,
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for Issued {
    /// Never the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// The driver of this room: one for the whole agent.
#[derive(Debug)]
pub struct Accounts {
    store: Store,
    key: SigningKey,
    settings: Settings,
    audiences: Vec<String>,
    directory: Directory,
    /// Tokens of pods that are fresh still.
    issued: Mutex<HashMap<Request, OfPod>>,
    /// What tokens say whose signature was found good, by their hash: checking it is the dear part.
    shown: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

/// What makes two requests of pods the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Request {
    pod: Uid,
    namespace: String,
    account: String,
    audience: String,
    expiration: Duration,
}

#[derive(Debug)]
struct OfPod {
    /// The account's: one that was made anew is another one.
    account: Uid,
    token: Token,
}

impl Accounts {
    pub fn new(store: Store, key: SigningKey, settings: Settings) -> Self {
        Self {
            directory: Directory::new(store.clone()),
            audiences: vec![settings.issuer.clone()],
            store,
            key,
            settings,
            issued: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    /// The audiences that mean the API itself.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The service account of this name; `None`: there is none.
    pub async fn account(&self, namespace: &str, name: &str) -> Result<Option<Arc<Account>>, StoreError> {
        self.directory.look_up(namespace, name).await
    }

    /// The same for a new pod: an account that is about to be made, as each new namespace's `default` is, is waited for.
    pub async fn account_for_pod(&self, namespace: &str, name: &str) -> Result<Option<Arc<Account>>, StoreError> {
        self.directory.await_one(namespace, name).await
    }

    /// `/openid/v1/jwks`: whoever has it can tell a token of podd's from another one.
    pub fn keys(&self) -> Value {
        json!({ "keys": [self.key.public()] })
    }

    /// `/.well-known/openid-configuration`, where the API is reached at this address and port.
    pub fn configuration(&self, api: &str) -> Value {
        json!({
            "issuer": self.settings.issuer,
            "jwks_uri": format!("https://{api}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [key::ALGORITHM],
        })
    }

    /// This node, as tokens of its pods name it.
    pub async fn node(&self) -> Result<Bound, StoreError> {
        let name = &self.settings.node_name;
        let node = self.store.get("Node", "", name).await?;
        Ok(Bound {
            name: name.clone(),
            uid: node.map(|node| node.uid.0).unwrap_or_default(),
        })
    }

    /// Make a token for these audiences (none: the API's own).
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn issue(
        &self,
        (namespace, name, uid): (&str, &str, &Uid),
        bound: BoundTo,
        audiences: &[String],
        life: Duration,
    ) -> Result<Issued, KeyError> {
        let BoundTo { pod, secret, node } = bound;
        // Whole seconds, as tokens have them.
        let now = (self.settings.clock)().as_second();
        let exp = now.saturating_add_unsigned(life.as_secs());
        let audiences = if audiences.is_empty() {
            &self.audiences
        } else {
            audiences
        };
        let claims = Claims {
            aud: audiences.to_vec(),
            exp,
            iat: now,
            iss: self.settings.issuer.clone(),
            jti: Uuid::new_v4().to_string(),
            kubernetes: Kubernetes {
                namespace: namespace.to_owned(),
                node,
                pod,
                secret,
                serviceaccount: Bound {
                    name: name.to_owned(),
                    uid: uid.0.clone(),
                },
            },
            nbf: now,
            sub: user(namespace, name),
        };
        let at = |second| Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        Ok(Issued {
            text: claims::encode(&claims, &self.key)?,
            issued_at: at(now),
            expires_at: at(exp),
        })
    }

    /// A token for a pod's volume, newly made unless one that was made for the same request is fresh still; `None`: there
    /// is no such account.
    ///
    /// # Errors
    /// The store does not answer, or nothing can be signed.
    pub async fn token(&self, request: TokenRequest) -> Result<Option<Token>, IssueError> {
        let TokenRequest {
            namespace,
            service_account,
            pod: (pod_name, pod_uid),
            audience,
            expiration,
        } = request;
        let name = if service_account.is_empty() {
            "default"
        } else {
            &service_account
        };
        let account = self.account(&namespace, name).await.map_err(IssueError::Store)?;
        let Some(account) = account else { return Ok(None) };
        let asked = Request {
            pod: pod_uid.clone(),
            namespace,
            account: name.to_owned(),
            audience,
            expiration,
        };
        let now = (self.settings.clock)();
        let fresh = |held: &OfPod| held.account == account.uid && now < held.token.renew_at;
        if let Some(held) = lock(&self.issued).get(&asked).filter(|held| fresh(held)) {
            return Ok(Some(held.token.clone()));
        }
        let bound = BoundTo {
            pod: Some(Bound {
                name: pod_name,
                uid: pod_uid.0,
            }),
            secret: None,
            node: Some(self.node().await.map_err(IssueError::Store)?),
        };
        let audiences: Vec<String> = Some(&asked.audience)
            .filter(|a| !a.is_empty())
            .cloned()
            .into_iter()
            .collect();
        let whose = (asked.namespace.as_str(), asked.account.as_str(), &account.uid);
        let issued = self
            .issue(whose, bound, &audiences, expiration)
            .map_err(IssueError::Key)?;
        let life = issued.expires_at.duration_since(issued.issued_at);
        let fresh_for = SignedDuration::from_secs(life.as_secs().saturating_mul(REFRESH_PERCENT) / 100);
        let token = Token {
            text: issued.text,
            expires_at: issued.expires_at,
            renew_at: issued.issued_at.checked_add(fresh_for).unwrap_or(Timestamp::MAX),
        };
        let mut held = lock(&self.issued);
        if held.len() >= REMEMBERED {
            // Those of pods that are gone are among them. Whoever still needs one gets another.
            held.retain(|_, held| now < held.token.renew_at);
            if held.len() >= REMEMBERED {
                held.clear();
            }
        }
        held.insert(
            asked,
            OfPod {
                account: account.uid.clone(),
                token: token.clone(),
            },
        );
        Ok(Some(token))
    }

    /// Whose this token is, for one of these audiences (none: the API's own).
    ///
    /// # Errors
    /// See [`Refusal`].
    pub async fn verify(&self, token: &str, wanted: &[String]) -> Result<Verified, Refusal> {
        let claims = self.read(token).ok_or(Refusal::Foreign)?;
        if claims.iss != self.settings.issuer {
            return Err(Refusal::Foreign);
        }
        let now = (self.settings.clock)();
        if now.as_second() >= claims.exp {
            return Err(Refusal::Expired);
        }
        // This machine's clock may have been set back a little.
        if now.as_second() < claims.nbf.saturating_sub(LEEWAY.as_secs()) {
            return Err(Refusal::TooEarly);
        }
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        let audiences: Vec<String> = wanted.iter().filter(|one| claims.aud.contains(one)).cloned().collect();
        if audiences.is_empty() {
            return Err(Refusal::Audience {
                of_token: claims.aud.clone(),
                wanted: wanted.to_vec(),
            });
        }
        self.check_bound(&claims.kubernetes, now).await?;
        Ok(verified(&claims, audiences))
    }

    /// What the token says, if this key signed it.
    fn read(&self, token: &str) -> Option<Arc<Claims>> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(claims) = lock(&self.shown).get(&hash) {
            return Some(Arc::clone(claims));
        }
        let claims = Arc::new(claims::decode(token, &self.key)?);
        let mut shown = lock(&self.shown);
        if shown.len() >= REMEMBERED {
            shown.clear();
        }
        shown.insert(hash, Arc::clone(&claims));
        Some(claims)
    }

    /// Everything that the token is bound to is there, and the same.
    async fn check_bound(&self, bound: &Kubernetes, now: Timestamp) -> Result<(), Refusal> {
        let Kubernetes {
            namespace,
            node,
            pod,
            secret,
            serviceaccount,
        } = bound;
        let before = now.checked_sub(LEEWAY).unwrap_or(Timestamp::MIN);
        let is_over = |deletion: Option<Timestamp>| deletion.is_some_and(|at| at < before);
        let account = self.account(namespace, &serviceaccount.name).await;
        let account = account.map_err(Refusal::Store)?.ok_or_else(|| Refusal::NoAccount {
            name: serviceaccount.name.clone(),
        })?;
        if account.uid.0 != serviceaccount.uid {
            return Err(Refusal::OtherAccount {
                found: account.uid.0.clone(),
                claimed: serviceaccount.uid.clone(),
            });
        }
        if is_over(account.deletion) {
            return Err(Refusal::Invalidated);
        }
        // Beside a pod the node only says where that is.
        let node = node.as_ref().filter(|_| pod.is_none());
        for (kind, namespace, object) in [
            ("Pod", namespace.as_str(), pod.as_ref()),
            ("Secret", namespace, secret.as_ref()),
            ("Node", "", node),
        ] {
            let Some(object) = object else { continue };
            let stored = self.store.get_by_uid(kind, &Uid(object.uid.clone())).await;
            let stored = stored.map_err(Refusal::Store)?;
            let counts = |stored: &StoredObject| {
                *stored.namespace == *namespace && *stored.name == *object.name && !is_over(deletion_of(stored))
            };
            if !stored.is_some_and(|stored| counts(&stored)) {
                return Err(Refusal::Invalidated);
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics with the lock held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The user name of a service account.
pub fn user(namespace: &str, name: &str) -> String {
    format!("{USER}{namespace}:{name}")
}

/// The groups that a service account is in, but for that of everyone who proved who they are.
pub fn groups(namespace: &str) -> Vec<String> {
    vec![GROUP.to_owned(), format!("{GROUP}:{namespace}")]
}

/// `apiserver/pkg/authentication/serviceaccount`, `ServiceAccountInfo.UserInfo`.
fn verified(claims: &Claims, audiences: Vec<String>) -> Verified {
    let Kubernetes {
        namespace,
        node,
        pod,
        secret: _,
        serviceaccount,
    } = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            let key = format!("authentication.kubernetes.io/{key}");
            extra.insert(key, vec![value.to_owned()]);
        }
    };
    add("credential-id", &format!("JTI={}", claims.jti));
    for (object, name, uid) in [(pod, "pod-name", "pod-uid"), (node, "node-name", "node-uid")] {
        if let Some(object) = object {
            add(name, &object.name);
            add(uid, &object.uid);
        }
    }
    Verified {
        user: user(namespace, &serviceaccount.name),
        uid: serviceaccount.uid.clone(),
        groups: groups(namespace),
        extra,
        audiences,
    }
}
