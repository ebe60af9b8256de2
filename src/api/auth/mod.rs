//! Who asks, and what they may do.
//!
//! Goes in: what a connection showed (a certificate, the unix socket) and the head of a request. Comes out: an
//! [`Identity`] ([`credentials`], [`bearer`], [`tokens`], [`impersonation`]), what is asked of podd ([`attributes`]), and whether that
//! identity may do it ([`rules`], a pure function).
//!
//! **Invariants:** a token is never logged, never in an error and never on the disk in podd's own hand but as a hash. A
//! credential is read from its one place: never from a query, never as Basic auth. What no rule names is refused.

pub(crate) mod attributes;
pub(crate) mod bearer;
pub(crate) mod credentials;
pub(crate) mod identity;
pub(crate) mod impersonation;
pub(crate) mod private;
pub(crate) mod rules;
pub(crate) mod throttle;
pub mod tokens;

pub use bearer::Bearers;
pub use identity::Identity;
