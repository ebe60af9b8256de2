//! Whose a token is: one of `ROOT/tokens`, or a service account's.
//!
//! **Invariant:** whoever cannot be asked is no refusal: when the store does not answer, nobody is told that a token is bad.

use std::path::Path;
use std::sync::Arc;

use super::identity::Identity;
use super::tokens::Tokens;
use crate::account::{Accounts, Refusal, Verified};
use crate::api::error::ApiError;

/// Everyone who is known by a token.
#[derive(Debug, Clone)]
pub struct Bearers {
    tokens: Arc<Tokens>,
    accounts: Arc<Accounts>,
}

/// Whose a token is, and which of the audiences that were asked for it is meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) identity: Identity,
    pub(crate) audiences: Vec<String>,
}

impl Bearers {
    /// The tokens of a state directory, and those of service accounts.
    pub fn open(root: &Path, accounts: Arc<Accounts>) -> Self {
        Self {
            tokens: Arc::new(Tokens::open(root)),
            accounts,
        }
    }

    pub fn accounts(&self) -> &Accounts {
        &self.accounts
    }

    /// Whose this token is, if it is good for the API itself.
    pub(crate) async fn identify(&self, token: &str) -> Result<Identity, ApiError> {
        match self.look(token, &[]).await? {
            Ok(bearer) => Ok(bearer.identity),
            Err(why) => {
                tracing::debug!(why, "a token is not believed");
                Err(ApiError::Unauthorized)
            }
        }
    }

    /// Whose this token is, for one of these audiences (none: the API's own); else why it is not believed.
    pub(crate) async fn look(&self, token: &str, audiences: &[String]) -> Result<Result<Bearer, String>, ApiError> {
        if let Some(identity) = self.tokens.identify(token) {
            return Ok(self.of_file(identity, audiences));
        }
        match self.accounts.verify(token, audiences).await {
            Ok(verified) => {
                let Verified {
                    user,
                    uid,
                    groups,
                    extra,
                    audiences,
                } = verified;
                let identity = Identity {
                    user,
                    uid,
                    groups,
                    extra,
                };
                Ok(Ok(Bearer { identity, audiences }))
            }
            Err(Refusal::Store(error)) => Err(ApiError::internal("the store did not answer", error)),
            Err(Refusal::Foreign) => Ok(Err(Refusal::Foreign.to_string())),
            Err(
                refusal @ (Refusal::Expired
                | Refusal::TooEarly
                | Refusal::Audience { .. }
                | Refusal::NoAccount { .. }
                | Refusal::OtherAccount { .. }
                | Refusal::Invalidated),
            ) => Ok(Err(format!("[{}, {refusal}]", Refusal::Foreign))),
        }
    }

    /// A token of the file says nothing of audiences: it is for the API (`authenticator.WrapAudienceAgnosticToken`).
    fn of_file(&self, identity: Identity, wanted: &[String]) -> Result<Bearer, String> {
        let own = self.accounts.audiences();
        let wanted = if wanted.is_empty() { own } else { wanted };
        let audiences: Vec<String> = own.iter().filter(|one| wanted.contains(one)).cloned().collect();
        if audiences.is_empty() {
            return Err(Refusal::Foreign.to_string());
        }
        Ok(Bearer { identity, audiences })
    }
}
