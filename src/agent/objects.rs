//! What pods take from the API's own objects, read from the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::account::Accounts;
use crate::model::{Data, ObjectKind, Token, TokenRequest};
use crate::runtime::{LookupError, Objects};
use crate::store::Store;

/// ConfigMaps, Secrets and service accounts as the store has them.
#[derive(Debug)]
pub(super) struct StoredObjects {
    store: Store,
    accounts: Arc<Accounts>,
}

impl StoredObjects {
    pub(super) fn new(store: Store, accounts: Arc<Accounts>) -> Self {
        Self { store, accounts }
    }
}

impl Objects for StoredObjects {
    fn data<'a>(
        &'a self,
        kind: ObjectKind,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Data>, LookupError>> {
        let word = match kind {
            ObjectKind::ConfigMap => "ConfigMap",
            ObjectKind::Secret => "Secret",
        };
        Box::pin(async move {
            let stored = self.store.get(word, namespace, name).await;
            let stored = stored.map_err(|error| LookupError(Box::new(error)))?;
            Ok(stored.map(|object| data_of(kind, &object.json)))
        })
    }

    fn token(&self, request: TokenRequest) -> BoxFuture<'_, Result<Option<Token>, LookupError>> {
        Box::pin(async move {
            let token = self.accounts.token(request).await;
            token.map_err(|error| LookupError(Box::new(error)))
        })
    }
}

/// `data` and, of a ConfigMap, `binaryData`. What does not decode was never admitted.
fn data_of(kind: ObjectKind, object: &Value) -> Data {
    let entries = |field: &str| object[field].as_object().into_iter().flatten();
    let decoded = |text: &Value| STANDARD.decode(text.as_str()?).ok();
    let mut all = BTreeMap::new();
    match kind {
        ObjectKind::ConfigMap => {
            let texts = entries("data").filter_map(|(key, text)| Some((key.clone(), text.as_str()?.into())));
            all.extend(texts);
            all.extend(entries("binaryData").filter_map(|(key, text)| Some((key.clone(), decoded(text)?))));
        }
        ObjectKind::Secret => {
            all.extend(entries("data").filter_map(|(key, text)| Some((key.clone(), decoded(text)?))));
        }
    }
    Data(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bytes_are_read_as_their_kind_keeps_them() {
        let object = json!({"data": {"a": "MQ=="}, "binaryData": {"b": "Ag=="}});
        let read = |kind| data_of(kind, &object).0;
        assert_eq!(
            read(ObjectKind::ConfigMap),
            BTreeMap::from([("a".to_owned(), b"MQ==".to_vec()), ("b".to_owned(), vec![2])])
        );
        assert_eq!(
            read(ObjectKind::Secret),
            BTreeMap::from([("a".to_owned(), b"1".to_vec())])
        );
    }
}
