//! Who makes the containers of a pod: its `RuntimeClass` names a handler, and the agent's configuration a program for it.
//!
//! Goes in: the name of a class. Comes out: an OCI runtime, or nothing for podd's own, or why there is none.
//!
//! **Invariant:** looked up when a sandbox is made; all containers of that sandbox have what was found then.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::shim::protocol::OciRuntime;

/// Served where they are found, whether they are configured or not.
const WELL_KNOWN: [&str; 3] = ["runc", "crun", "runsc"];
/// Where they are looked for.
const PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
/// What those call themselves whose containers are plain processes in namespaces ([`OciRuntime::plain`]).
const PLAIN: [&str; 3] = ["runc", "crun", "youki"];
/// How long a runtime may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where classes are looked up.
pub trait RuntimeClasses: fmt::Debug + Send + Sync {
    /// The handler of this class; `None`: there is no such class.
    fn handler<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<Option<String>, LookupError>>;
}

/// What the API has cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot look up an object")]
pub struct LookupError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// A configured runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

/// All that this agent serves.
#[derive(Debug)]
pub struct Handlers {
    classes: Arc<dyn RuntimeClasses>,
    /// What a class calls podd's own.
    own: String,
    configured: BTreeMap<String, Program>,
    /// What each has said of itself.
    plain: Mutex<HashMap<PathBuf, bool>>,
}

/// Why a pod's containers cannot be made, in a kubelet's words where it has some.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// `pkg/kubelet/runtimeclass`: the class went after the pod was admitted.
    #[error("runtimeclass.node.k8s.io {class:?} not found")]
    NoClass { class: String },
    #[error("RuntimeHandler {handler:?} not supported")]
    NotSupported { handler: String },
    #[error("RuntimeHandler {handler:?}: cannot run {}", path.display())]
    Run {
        handler: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("RuntimeHandler {handler:?}: {} --version does not end", path.display())]
    Silent { handler: String, path: PathBuf },
}

impl Handlers {
    pub fn new(classes: Arc<dyn RuntimeClasses>, own: &str, configured: BTreeMap<String, Program>) -> Self {
        Self {
            classes,
            own: own.to_owned(),
            configured,
            plain: Mutex::default(),
        }
    }

    /// The runtime that a class means; `None`: podd's own.
    ///
    /// # Errors
    /// See [`HandlerError`].
    pub async fn of_class(&self, class: Option<&str>) -> Result<Option<OciRuntime>, HandlerError> {
        let Some(class) = class else { return Ok(None) };
        let handler = self.classes.handler(class).await?;
        let handler = handler.ok_or_else(|| HandlerError::NoClass {
            class: class.to_owned(),
        })?;
        if handler.is_empty() || handler == self.own {
            return Ok(None);
        }
        let Some(Program { path, arguments }) = self.program(&handler) else {
            return Err(HandlerError::NotSupported { handler });
        };
        let plain = self.is_plain(&handler, &path).await?;
        Ok(Some(OciRuntime {
            handler,
            path,
            arguments,
            plain,
        }))
    }

    fn program(&self, handler: &str) -> Option<Program> {
        if let Some(program) = self.configured.get(handler) {
            return Some(program.clone());
        }
        let mut found = PATH.iter().map(|directory| Path::new(directory).join(handler));
        let path = found.find(|path| WELL_KNOWN.contains(&handler) && path.is_file())?;
        Some(Program {
            path,
            arguments: Vec::new(),
        })
    }

    /// By what it says of itself, not by what somebody calls it.
    async fn is_plain(&self, handler: &str, path: &Path) -> Result<bool, HandlerError> {
        let known = self
            .plain
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .copied();
        if let Some(plain) = known {
            return Ok(plain);
        }
        let mut command = tokio::process::Command::new(path);
        command.arg("--version").kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .map_err(|_| HandlerError::Silent {
                handler: handler.to_owned(),
                path: path.to_owned(),
            })?
            .map_err(|source| HandlerError::Run {
                handler: handler.to_owned(),
                path: path.to_owned(),
                source,
            })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let name = text.split_whitespace().next().unwrap_or_default();
        let plain = PLAIN.contains(&name);
        let mut all = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(path.to_owned(), plain);
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[derive(Debug)]
    struct Classes;

    impl RuntimeClasses for Classes {
        fn handler<'a>(&'a self, class: &'a str) -> BoxFuture<'a, Result<Option<String>, LookupError>> {
            Box::pin(async move { Ok(class.strip_prefix("class-of-").map(str::to_owned)) })
        }
    }

    fn script(path: &Path, says: &str) {
        std::fs::write(path, format!("#!/bin/sh\necho {says}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn a_class_leads_to_a_program_and_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (plain, vm) = (dir.path().join("a"), dir.path().join("b"));
        script(&plain, "crun version 1.8.1");
        script(&vm, "kata-runtime : 3.2.0");
        let program = |path: &Path| Program {
            path: path.to_owned(),
            arguments: vec!["--debug".to_owned()],
        };
        let configured = BTreeMap::from([("fast".to_owned(), program(&plain)), ("vm".to_owned(), program(&vm))]);
        let handlers = Handlers::new(Arc::new(Classes), "podd", configured);
        let of = async |class: &str| handlers.of_class(Some(class)).await;
        assert_eq!(handlers.of_class(None).await.unwrap(), None);
        assert_eq!(of("class-of-podd").await.unwrap(), None);
        let fast = of("class-of-fast").await.unwrap().unwrap();
        assert_eq!((fast.handler.as_str(), fast.plain), ("fast", true));
        assert_eq!(fast.arguments, ["--debug"]);
        assert!(!of("class-of-vm").await.unwrap().unwrap().plain);
        assert_eq!(
            of("class-of-nothing").await.unwrap_err().to_string(),
            "RuntimeHandler \"nothing\" not supported"
        );
        assert_eq!(
            of("gone").await.unwrap_err().to_string(),
            "runtimeclass.node.k8s.io \"gone\" not found"
        );
    }
}
