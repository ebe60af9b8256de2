//! Streams as their clients meet them: the router behind a real listener, and processes of this machine as the pod's.

pub(super) mod fake;
