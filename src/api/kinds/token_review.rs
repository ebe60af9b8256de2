//! Whose is this token? (`pkg/registry/authentication/tokenreview`)
//!
//! What stands here reads the question; `api/accounts.rs` answers it.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::{Metadata, Resource};

use super::review::{self, REVIEW};
use super::{Admitted, Draft, Kind};
use crate::admit::Decoded;
use crate::api::error::ApiError;

/// Asked by those to whom pods show their tokens.
pub static TOKEN_REVIEW: Kind = Kind {
    group: TokenReview::GROUP,
    version: TokenReview::VERSION,
    kind: TokenReview::KIND,
    plural: TokenReview::URL_PATH_SEGMENT,
    singular: "tokenreview",
    read: review::read::<TokenReview>,
    admit,
    schema: |generator| generator.subschema_for::<TokenReview>(),
    ..REVIEW
};

fn admit(draft: &Draft<'_>) -> Result<Admitted, ApiError> {
    let Decoded {
        object: mut review,
        warnings,
    } = review::decode::<TokenReview>(draft.bytes, draft.encoding, draft.validation)?;
    let TokenReviewSpec { audiences: _, token } = &review.spec;
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let ObjectMeta {
        name,
        creation_timestamp,
        ..
    } = review.metadata_mut();
    *name = None;
    *creation_timestamp = Some(Time(draft.now));
    review.status = None;
    review::answered(&review, warnings)
}
