use std::fs;
use std::path::Path;

use super::*;
use crate::model::{AttemptState, EmptyDirMedium, GivenUpReason, RestartPolicy, Volume, VolumeSource};
use crate::reconcile::testing::{UID, at, attempt, pod, ready, running};
use crate::runtime::LogDirName;

const MIB: u64 = 1 << 20;

/// Directories of pods, and who looks at them.
struct World {
    dir: tempfile::TempDir,
    evictions: Evictions,
    hints: mpsc::UnboundedReceiver<Uid>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (hint, hints) = mpsc::unbounded_channel();
        let evictions = Evictions::new(Parts {
            pods: dir.path().join("pods"),
            log_dir: dir.path().join("log"),
            hints: hint,
            period: Duration::from_millis(1),
        });
        Self { dir, evictions, hints }
    }

    fn write(&self, path: &str, mib: u64) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, vec![1; usize::try_from(mib * MIB).unwrap()]).unwrap();
    }

    fn excess(&self, pod: &PodSpec, observed: &Observed) -> Option<String> {
        let (pods, logs) = (self.dir.path().join("pods"), self.dir.path().join("log"));
        Limited::of(pod, observed, &pods, &logs)?.excess()
    }
}

fn empty_dir(name: &str, medium: EmptyDirMedium, size_limit: Option<u64>) -> Volume {
    Volume {
        name: name.to_owned(),
        source: VolumeSource::EmptyDir { medium, size_limit },
    }
}

/// Two containers that run, the first of them for the third time.
fn observed() -> Observed {
    ready(vec![attempt("app", 2, running(1)), attempt("other", 0, running(1))])
}

fn desired() -> PodSpec {
    pod(RestartPolicy::Always, &["app", "other"])
}

#[test]
fn without_limits_nothing_is_looked_at() {
    let world = World::new();
    let mut pod = desired();
    pod.volumes = vec![
        empty_dir("v", EmptyDirMedium::Disk, None),
        // The kernel sees to this one.
        empty_dir("m", EmptyDirMedium::Memory, Some(1)),
    ];
    assert_eq!(Limited::of(&pod, &observed(), world.dir.path(), Path::new("/")), None);
    // Nor at a static pod, which nobody would replace.
    pod.volumes = vec![empty_dir("v", EmptyDirMedium::Disk, Some(1))];
    let limited = |pod: &PodSpec| Limited::of(pod, &observed(), world.dir.path(), Path::new("/")).is_some();
    assert!(limited(&pod));
    let mirror = ("kubernetes.io/config.mirror".to_owned(), "x".to_owned());
    pod.about.annotations = [mirror].into();
    assert!(!limited(&pod));
}

#[test]
fn each_limit_is_told_in_a_kubelets_words() {
    let world = World::new();
    let mut pod = desired();
    pod.volumes = vec![
        empty_dir("small", EmptyDirMedium::Disk, Some(MIB)),
        empty_dir("free", EmptyDirMedium::Disk, None),
    ];
    let look = |pod: &PodSpec| world.excess(pod, &observed());
    world.write(&format!("pods/{UID}/volumes/free/x"), 3);
    assert_eq!(look(&pod), None);
    world.write(&format!("pods/{UID}/volumes/small/x"), 2);
    let message = "Usage of EmptyDir volume \"small\" exceeds the limit \"1Mi\". ";
    assert_eq!(look(&pod).as_deref(), Some(message));

    pod.volumes[0] = empty_dir("small", EmptyDirMedium::Disk, Some(64 * MIB));
    pod.containers[0].resources.storage_limit = Some(2 * MIB);
    pod.containers[1].resources.storage_limit = Some(2 * MIB);
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ";
    assert_eq!(look(&pod).as_deref(), Some(message), "all its volumes count");

    pod.containers[1].resources.storage_limit = Some(64 * MIB);
    assert_eq!(look(&pod), None);
    // Neither what an earlier attempt wrote nor what the next one will find.
    world.write(&format!("pods/{UID}/app/1/upper/x"), 5);
    world.write(&format!("pods/{UID}/app/3/upper/x"), 5);
    assert_eq!(look(&pod), None);
    world.write(&format!("pods/{UID}/app/2/upper/x"), 1);
    assert_eq!(look(&pod), None);
    let logs = format!("log/{}/app/2.log", LogDirName::of(&pod).0);
    world.write(&logs, 2);
    let message = "Container app exceeded its local ephemeral storage limit \"2Mi\". ";
    assert_eq!(look(&pod).as_deref(), Some(message));
}

#[tokio::test]
async fn a_pod_over_its_limit_is_told_of_until_that_is_recorded() {
    let mut world = World::new();
    let mut pod = desired();
    pod.volumes = vec![empty_dir("v", EmptyDirMedium::Disk, Some(MIB))];
    let mut observed = observed();
    world.evictions.watch(&pod, &observed);
    assert_eq!(world.evictions.verdict(&pod.uid), None);
    world.write(&format!("pods/{UID}/volumes/v/x"), 2);
    assert_eq!(world.hints.recv().await.as_ref(), Some(&pod.uid));
    let message = world.evictions.verdict(&pod.uid).unwrap();
    assert!(message.contains("\"v\" exceeds the limit \"1Mi\""), "{message}");
    observed = crate::reconcile::gave_up(at(5), &observed, GivenUpReason::Evicted, message);
    world.evictions.watch(&pod, &observed);
    world.evictions.settle(&pod.uid);
    assert_eq!(world.evictions.verdict(&pod.uid), None);
    assert!(world.evictions.0.state().watched.is_empty());
    assert!(matches!(observed.attempts[0].state, AttemptState::Running { .. }));
}
