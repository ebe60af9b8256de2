//! What is acknowledged is there, whatever happens.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;

#[tokio::test]
async fn the_files_are_for_their_owner_alone() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    make(&store, 1).await;
    for extension in ["db", "db-wal", "db-shm"] {
        let mode = std::fs::metadata(scratch.path.with_extension(extension))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{extension}");
    }
    drop(store);
    std::fs::set_permissions(&scratch.path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let _store = scratch.open().await;
    assert_eq!(
        std::fs::metadata(&scratch.path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[tokio::test]
async fn a_place_where_no_file_can_be_is_said_so() {
    let scratch = Scratch::new();
    let error = Store::open(&scratch.path.join("not/there")).await.unwrap_err();
    assert!(matches!(error, StoreError::File { .. }), "{error}");
    std::fs::write(
        &scratch.path,
        "This is no database, and it is long enough to be seen as none of that kind.",
    )
    .unwrap();
    let error = Store::open(&scratch.path).await.unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
}

#[tokio::test]
async fn the_database_of_a_newer_podd_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    make(&store, 1).await;
    drop(store);
    scratch
        .meddle(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'later', 1, x'00', 0)",
        )
        .await;
    let error = Store::open(&scratch.path).await.unwrap_err();
    assert!(matches!(error, StoreError::Migrate { .. }), "{error}");
    scratch
        .meddle("DELETE FROM _sqlx_migrations WHERE version = 9999")
        .await;
    assert_eq!(
        scratch
            .open()
            .await
            .list("Pod", None, None, None)
            .await
            .unwrap()
            .objects
            .len(),
        1
    );
}

#[tokio::test]
async fn after_a_commit_that_failed_nothing_is_acknowledged_until_the_database_is_opened_anew() {
    let scratch = Scratch::new();
    let store = scratch.open().await;
    make(&store, 1).await;
    // A constraint that is looked at when the transaction is committed, and not before.
    scratch
        .meddle(
            "CREATE TABLE never (id INTEGER PRIMARY KEY);
             CREATE TABLE trap (id INTEGER REFERENCES never (id) DEFERRABLE INITIALLY DEFERRED);
             CREATE TRIGGER spring AFTER INSERT ON setting BEGIN INSERT INTO trap VALUES (1); END;",
        )
        .await;
    let mut changes = store.subscribe();
    // One transaction for all of them.
    let uids = [uid(1), uid(2), uid(3)];
    let (first, second, third, fourth) = tokio::join!(
        store.create("Pod", "default", "pod-2", &uids[1], pod(&uids[1], "pod-2", "one")),
        store.create("Pod", "default", "pod-2", &uids[2], pod(&uids[2], "pod-2", "one")),
        store.put_setting("the", "trap"),
        store.set_status(&uids[0], json!({ "phase": "Running" })),
    );
    let errors = [
        first.unwrap_err(),
        second.unwrap_err(),
        third.unwrap_err(),
        fourth.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    }
    assert!(matches!(store.failure().await, StoreError::Failed { .. }));
    let error = store.release_place(&uid(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
    assert!(changes.try_recv().is_err());
    // What was committed can be read still.
    assert_eq!(names(&store.list("Pod", None, None, None).await.unwrap()), ["pod-1"]);

    drop((store, changes));
    scratch
        .meddle("DROP TRIGGER spring; DROP TABLE trap; DROP TABLE never")
        .await;
    let store = scratch.open().await;
    assert_eq!(make(&store, 4).await.resource_version, 3);
}

#[tokio::test]
async fn dropped_without_a_word_everything_is_there() {
    let scratch = Scratch::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let path = scratch.path.clone();
    let made = runtime
        .spawn(async move {
            let store = Store::open(&path).await.unwrap();
            let mut made = Vec::new();
            for n in 0..20 {
                made.push(make(&store, n).await.name.to_string());
            }
            // Requests that nobody waits for: each is carried out whole or not at all.
            for n in 20..40 {
                let store = store.clone();
                tokio::spawn(async move { make(&store, n).await });
            }
            made
        })
        .await
        .unwrap();
    // Writer and readers stop in the middle of whatever they do.
    runtime.shutdown_background();
    let store = scratch.open().await;
    let page = store.list("Pod", None, None, None).await.unwrap();
    assert!(made.iter().all(|name| names(&page).contains(&name.as_str())));
    assert_eq!(store.changes("Pod", 0, 1000).await.unwrap().len(), page.objects.len());
}

const CHILD: &str = "PODD_TEST_STORE";
const PODS: &str = "PODD_TEST_PODS";

/// Not a test of its own: what the tests below run as another process. Writes so many pods, until it is ended or each of
/// its tasks was told twice that it cannot, and says what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside other tests"]
async fn child() {
    let path = std::env::var_os(CHILD).expect("set by the test that runs it");
    let pods: u32 = std::env::var_os(PODS).unwrap().to_str().unwrap().parse().unwrap();
    let store = Store::open(Path::new(&path)).await.unwrap();
    let said = |line: String| {
        let mut out = std::io::stdout().lock();
        // The harness has begun a line of its own.
        writeln!(out, "\n{line}").unwrap();
        out.flush().unwrap();
    };
    join_all((0..4).map(|task| {
        let store = store.clone();
        async move {
            let mut errors = 0;
            for n in (task..pods).step_by(4) {
                let name = format!("pod-{n}");
                let written = async {
                    store
                        .create("Pod", "default", &name, &uid(n), pod(&uid(n), &name, "one"))
                        .await?;
                    store
                        .set_status(&uid(n), json!({ "phase": "Running", "text": "x".repeat(2_000) }))
                        .await
                };
                match written.await {
                    Ok(_) => said(format!("ack {n}")),
                    Err(error) => {
                        let failed = matches!(error, StoreError::Failed { .. });
                        said(format!("{} {n}", if failed { "failed" } else { "refused" }));
                        errors += 1;
                        if errors == 2 {
                            break;
                        }
                    }
                }
            }
        }
    }))
    .await;
    said("end".to_owned());
}

/// Runs one of the children on a database, under another program or not.
fn start_child(wrapper: &[&str], child: &str, path: &Path, pods: u32) -> std::process::Child {
    let this = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [] => Command::new(&this),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&this);
            command
        }
    };
    let name = format!("{}::{child}", module_path!().split_once("::").unwrap().1);
    command
        .args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .env(PODS, pods.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

async fn assert_acknowledged_are_there(scratch: &Scratch, acknowledged: &[u32]) {
    let store = scratch.open().await;
    for n in acknowledged {
        let object = store.get_by_uid("Pod", &uid(*n)).await.unwrap().unwrap();
        assert_eq!(object.json["status"]["phase"], "Running", "{n}");
    }
    let page = store.list("Pod", None, None, None).await.unwrap();
    assert!(page.unreadable.is_empty());
    let changes = store.changes("Pod", 0, usize::MAX).await.unwrap();
    assert_eq!(u64::try_from(changes.len()).unwrap() + 1, page.resource_version);
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", scratch.path.display()))
        .await
        .unwrap();
    let checked: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(checked, "ok");
}

#[tokio::test]
async fn killed_at_any_moment_what_was_acknowledged_is_there() {
    for enough in [1, 37, 150, 400] {
        let scratch = Scratch::new();
        let mut child = start_child(&[], "child", &scratch.path, 100_000);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let number = |line: String| line.strip_prefix("ack ").and_then(|n| n.parse::<u32>().ok());
        let mut acknowledged: Vec<_> = lines.by_ref().filter_map(number).take(enough).collect();
        // SIGKILL; what it said before that still counts.
        child.kill().unwrap();
        acknowledged.extend(lines.filter_map(number));
        child.wait().unwrap();
        assert!(acknowledged.len() >= enough);
        assert_acknowledged_are_there(&scratch, &acknowledged).await;
    }
}

/// What each of the child's tasks said in turn (`ack`, `refused`, `failed`, and of which pod), run under strace with a
/// fault at one of its system calls. `None` when strace cannot be used here.
fn under_strace(scratch: &Scratch, fault: &str) -> Option<[Vec<(String, u32)>; 4]> {
    let probe = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("skipped: strace cannot be used here");
        return None;
    }
    let inject = format!("inject={fault}");
    let child = start_child(
        &["strace", "-f", "-o", "/dev/null", "-e", &inject],
        "child",
        &scratch.path,
        200,
    );
    let output = child.wait_with_output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.lines().any(|line| line == "end"), "{output}");
    let mut said: [Vec<_>; 4] = Default::default();
    for line in output.lines() {
        if let Some((word, n)) = line.split_once(' ')
            && ["ack", "refused", "failed"].contains(&word)
        {
            let n: u32 = n.parse().unwrap();
            said[usize::try_from(n % 4).unwrap()].push((word.to_owned(), n));
        }
    }
    Some(said)
}

fn acknowledged(said: &[Vec<(String, u32)>]) -> Vec<u32> {
    said.iter()
        .flatten()
        .filter(|(word, _)| word == "ack")
        .map(|(_, n)| *n)
        .collect()
}

/// Once somebody was told that it failed, nothing else is ever said to them.
fn assert_failed_for_good(said: &[Vec<(String, u32)>]) {
    for task in said {
        let words: Vec<_> = task.iter().map(|(word, _)| word.as_str()).collect();
        let first = words
            .iter()
            .position(|word| *word != "ack")
            .expect("the fault was noticed");
        assert_eq!(words[first..], ["failed", "failed"], "{words:?}");
    }
}

#[tokio::test]
async fn when_the_disk_fails_to_sync_nothing_more_is_acknowledged() {
    for when in [40, 41, 97] {
        let scratch = Scratch::new();
        // From this call on, for ever.
        let fault = format!("fsync,fdatasync:error=EIO:when={when}+");
        let Some(said) = under_strace(&scratch, &fault) else {
            return;
        };
        assert_failed_for_good(&said);
        assert!(!acknowledged(&said).is_empty());
        assert_acknowledged_are_there(&scratch, &acknowledged(&said)).await;
    }
}

#[tokio::test]
async fn a_sync_that_fails_once_is_not_believed_the_next_time() {
    let scratch = Scratch::new();
    let Some(said) = under_strace(&scratch, "fsync,fdatasync:error=EIO:when=60") else {
        return;
    };
    assert_failed_for_good(&said);
    assert_acknowledged_are_there(&scratch, &acknowledged(&said)).await;
}

#[tokio::test]
async fn a_write_that_finds_the_disk_full_is_refused_and_the_next_one_goes_on() {
    let scratch = Scratch::new();
    let Some(said) = under_strace(&scratch, "pwrite64:error=ENOSPC:when=300") else {
        return;
    };
    let refused = said.iter().flatten().filter(|(word, _)| word == "refused").count();
    assert!(refused > 0, "the fault was not noticed");
    // Everybody goes on to the end of the work.
    for (task, n) in said.iter().zip(196..) {
        assert_eq!(task.last().unwrap(), &("ack".to_owned(), n));
    }
    assert_acknowledged_are_there(&scratch, &acknowledged(&said)).await;
}

/// Not a test of its own: runs where the database's directory is a file system of 3 MB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs inside another test"]
async fn child_on_a_small_disk() {
    let path = std::env::var_os(CHILD).expect("set by the test that runs it");
    let (path, filler) = (Path::new(&path), Path::new(&path).with_file_name("filler"));
    let store = Store::open(path).await.unwrap();
    for n in 0..20 {
        make(&store, n).await;
    }
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);

    let mut refused = 0;
    for n in 0..50 {
        match store
            .set_status(&uid(1), json!({ "n": n, "text": "x".repeat(9_000) }))
            .await
        {
            Ok(_) => {}
            Err(StoreError::Database { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0, "the disk was never full");
    assert_eq!(store.list("Pod", None, None, None).await.unwrap().objects.len(), 20);
    drop(store);

    // Started on the full disk.
    let store = Store::open(path).await.unwrap();
    assert_eq!(store.list("Pod", None, None, None).await.unwrap().objects.len(), 20);
    let version = store.resource_version().await.unwrap();
    std::fs::remove_file(filler).unwrap();
    make(&store, 20).await;
    assert_eq!(store.resource_version().await.unwrap(), version + 1);
}

#[tokio::test]
async fn a_full_disk_is_survived_and_a_start_on_it_too() {
    let scratch = Scratch::new();
    let directory = scratch.path.parent().unwrap().to_str().unwrap();
    // The file system is gone with the child's mount namespace.
    let mount = format!("mount -t tmpfs -o size=3m tmpfs {directory} && exec \"$0\" \"$@\"");
    let child = start_child(
        &["unshare", "-m", "sh", "-c", &mount],
        "child_on_a_small_disk",
        &scratch.path,
        0,
    );
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
