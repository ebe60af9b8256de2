//! Owner references (`pkg/controller/garbagecollector`, `attemptToDeleteItem` and `processDeletingDependentsItem`).

use serde_json::Value;

use super::{Garbage, Look, Looked, OwnerKind, is_ending};
use crate::admit::deletion::{self, FOREGROUND, ORPHAN, Propagation};
use crate::model::Uid;
use crate::store::{Dependant, StoreError, StoredObject};

/// The uids of a list of owner references.
pub(super) fn uids(references: &Value) -> impl Iterator<Item = Uid> + '_ {
    references
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|reference| reference["uid"].as_str())
        .map(|uid| Uid(uid.to_owned()))
}

/// What has become of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// It is there, or nobody can tell.
    Solid,
    /// It is not there.
    Gone,
    /// It waits for its dependants to go first.
    Waiting,
}

fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    deletion::finalizers(object).contains(&finalizer)
}

fn waits_for_dependants(object: &Value) -> bool {
    is_ending(object) && has_finalizer(object, FOREGROUND)
}

fn remove_finalizer(object: &mut Value, finalizer: &str) -> bool {
    let all = deletion::finalizers(object);
    let rest: Vec<String> = all
        .iter()
        .filter(|name| **name != finalizer)
        .map(|name| (*name).to_owned())
        .collect();
    let found = rest.len() < all.len();
    deletion::set_finalizers(object, &rest);
    found
}

/// Take the references to these owners away; true when there were some.
fn remove_owners(object: &mut Value, owners: &[Uid]) -> bool {
    let metadata = &mut object["metadata"];
    let Some(references) = metadata["ownerReferences"].as_array_mut() else {
        return false;
    };
    let before = references.len();
    references.retain(|reference| {
        reference["uid"]
            .as_str()
            .is_none_or(|uid| owners.iter().all(|owner| owner.as_str() != uid))
    });
    let changed = references.len() < before;
    if references.is_empty()
        && let Some(metadata) = metadata.as_object_mut()
    {
        metadata.remove("ownerReferences");
    }
    changed
}

impl Garbage {
    /// See what an object is in need of: as an owner that is being deleted, and as a dependant.
    pub(super) async fn object(&self, uid: &Uid) -> Looked {
        let Some(object) = self.store.get_any(uid).await? else {
            return Ok(Vec::new());
        };
        if is_ending(&object.json) {
            if has_finalizer(&object.json, ORPHAN) {
                return self.orphan(&object).await;
            }
            if has_finalizer(&object.json, FOREGROUND) {
                return self.wait_for_dependants(&object).await;
            }
            return Ok(Vec::new());
        }
        self.dependant(&object).await
    }

    /// Let the dependants of an owner stay without it.
    async fn orphan(&self, owner: &StoredObject) -> Looked {
        let gone = [owner.uid.clone()];
        for dependant in self.store.dependants(&owner.uid).await? {
            self.change(&dependant.uid, |object| remove_owners(object, &gone))
                .await?;
        }
        self.change(&owner.uid, |object| remove_finalizer(object, ORPHAN))
            .await?;
        Ok(Vec::new())
    }

    /// Let an owner go once nothing that blocks it is left; until then, its dependants are to go.
    async fn wait_for_dependants(&self, owner: &StoredObject) -> Looked {
        let dependants = self.store.dependants(&owner.uid).await?;
        if !dependants.iter().any(|dependant| dependant.blocking) {
            self.change(&owner.uid, |object| remove_finalizer(object, FOREGROUND))
                .await?;
        }
        Ok(dependants
            .into_iter()
            .map(|dependant| Look::Object(dependant.uid))
            .collect())
    }

    /// Delete an object none of whose owners is there, or one whose last owner waits for it.
    async fn dependant(&self, object: &StoredObject) -> Looked {
        let Some(references) = object.json["metadata"]["ownerReferences"]
            .as_array()
            .filter(|references| !references.is_empty())
        else {
            return Ok(Vec::new());
        };
        let (mut solid, mut lost, mut waiting) = (false, Vec::new(), false);
        for reference in references {
            let found = self.owner(object, reference).await?;
            solid |= found == Owner::Solid;
            waiting |= found == Owner::Waiting;
            if found != Owner::Solid {
                lost.push(Uid(reference["uid"].as_str().unwrap_or_default().to_owned()));
            }
        }
        if solid {
            // It stays for the sake of the others, without those that are gone or going.
            if !lost.is_empty() {
                self.change(&object.uid, |object| remove_owners(object, &lost)).await?;
            }
            return Ok(Vec::new());
        }
        let dependants = self.store.dependants(&object.uid).await?;
        if waiting && !dependants.is_empty() {
            if self.any_waits(&dependants).await? {
                // A circle: each would wait for the other for ever.
                self.change(&object.uid, unblock).await?;
            }
            self.delete(&object.uid, Propagation::Foreground).await?;
            return Ok(Vec::new());
        }
        let propagation = if has_finalizer(&object.json, ORPHAN) {
            Propagation::Orphan
        } else if has_finalizer(&object.json, FOREGROUND) {
            Propagation::Foreground
        } else {
            Propagation::Background
        };
        self.delete(&object.uid, propagation).await?;
        Ok(Vec::new())
    }

    async fn any_waits(&self, dependants: &[Dependant]) -> Result<bool, StoreError> {
        for dependant in dependants {
            let object = self.store.get_any(&dependant.uid).await?;
            if object.is_some_and(|object| waits_for_dependants(&object.json)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn owner(&self, dependant: &StoredObject, reference: &Value) -> Result<Owner, StoreError> {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        let of_kind = |known: &&OwnerKind| known.group == group && known.kind == text("kind");
        let Some(kind) = self.settings.kinds.iter().find(of_kind) else {
            return Ok(Owner::Solid);
        };
        if kind.namespaced && dependant.namespace.is_empty() {
            // Nobody can say in which namespace it should be.
            return Ok(Owner::Solid);
        }
        let found = self.store.get_any(&Uid(text("uid").to_owned())).await?;
        let namespace = if kind.namespaced { &*dependant.namespace } else { "" };
        let meant = found.filter(|owner| {
            *owner.kind == *kind.stored_as && *owner.namespace == *namespace && *owner.name == *text("name")
        });
        Ok(match meant {
            None => Owner::Gone,
            Some(owner) if waits_for_dependants(&owner.json) => Owner::Waiting,
            Some(_) => Owner::Solid,
        })
    }
}

/// Its owners do not wait for it any more.
fn unblock(object: &mut Value) -> bool {
    let mut changed = false;
    let references = object["metadata"]["ownerReferences"].as_array_mut();
    for reference in references.into_iter().flatten() {
        if reference["blockOwnerDeletion"] == true {
            reference["blockOwnerDeletion"] = false.into();
            changed = true;
        }
    }
    changed
}
