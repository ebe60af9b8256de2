//! An agent on the database of an older podd.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, signal, uid, with};

/// The newest migration of that podd.
const OLD: u32 = 8;

fn sql(database: &Path, statements: &str) -> String {
    let mut command = Command::new("sqlite3")
        .args(["-bail", "-batch"])
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the sqlite3 command is installed");
    let mut input = command.stdin.take().unwrap();
    input.write_all(statements.as_bytes()).unwrap();
    drop(input);
    let output = command.wait_with_output().unwrap();
    assert!(output.status.success(), "{statements}");
    String::from_utf8(output.stdout).unwrap()
}

/// The steps up to that podd's, in order.
fn old_migrations() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let number = |path: &PathBuf| path.file_name()?.to_str()?.split_once('_')?.0.parse::<u32>().ok();
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| number(path).is_some_and(|n| n <= OLD)).collect();
    files.sort();
    assert_eq!(files.last().and_then(number), Some(OLD));
    files
}

/// Put everything that an agent has stored into a database as that podd has it: its tables, its columns, and the record
/// of its migrations.
fn make_old(agent: &Agent) {
    let new = agent.root().join("podd.db");
    let old = agent.dir.join("old.db");
    for migration in old_migrations() {
        sql(&old, &std::fs::read_to_string(migration).unwrap());
    }
    let attach = format!("ATTACH '{}' AS new; PRAGMA foreign_keys = off;", new.display());
    let tables = sql(&old, "SELECT name FROM sqlite_master WHERE type = 'table'");
    for table in tables.lines() {
        let columns = sql(
            &old,
            &format!("SELECT group_concat('\"' || name || '\"') FROM pragma_table_info('{table}')"),
        );
        let columns = columns.trim();
        sql(
            &old,
            &format!("{attach} DELETE FROM {table}; INSERT INTO {table} ({columns}) SELECT {columns} FROM new.{table}"),
        );
    }
    sql(&old, sql(&new, ".schema _sqlx_migrations").trim());
    sql(
        &old,
        &format!("{attach} INSERT INTO _sqlx_migrations SELECT * FROM new._sqlx_migrations WHERE version <= {OLD}"),
    );
    // As that podd wrote down a lack of memory.
    sql(
        &old,
        "UPDATE attempt SET exit_status = 'OomKilled', exit_number = NULL WHERE container = 'killed' AND state = 'Exited'",
    );
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(agent.root().join(format!("podd.db{suffix}")));
    }
    std::fs::rename(old, new).unwrap();
}

fn asking(name: &str, containers: &[(&str, &str)]) -> Value {
    with(pod(name, containers), |pod| {
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "300m", "memory": "16Mi"}});
        pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    })
}

#[test]
fn pods_of_an_older_podd_run_on_and_are_counted() {
    let mut agent = Agent::start_with(&["--allocatable=cpu=1"]);
    let long = "exec sleep 1000";
    agent.create(&asking("runs", &[("kept", long), ("killed", long)]));
    agent.create(&asking("other", &[("c", long)]));
    agent.create(&with(asking("failed", &[("c", "exit 3")]), |pod| {
        pod["spec"]["restartPolicy"] = json!("Never");
    }));
    let runs = agent.wait_running("runs");
    let other = agent.wait_running("other");
    agent.wait_phase("failed", "Failed");
    let id = uid(&runs);
    signal(agent.container_pid(&id, "killed"), "KILL");
    let before = agent.wait_pod("runs", "to run again", |p| {
        let killed = container(p, "killed");
        killed["restartCount"] == 1 && killed["state"]["running"].is_object()
    });
    let pids = |agent: &Agent| {
        (
            agent.infra_pid(&id),
            agent.container_pid(&id, "kept"),
            agent.container_pid(&id, "killed"),
        )
    };
    let processes = pids(&agent);
    let config = json!({"metadata": {"name": "conf"}, "data": {"k": "v"}});
    let config_maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(agent.request("POST", config_maps, Some(&config)).code, 201);
    let version = |list: &Value| -> u64 { list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap() };
    let newest = version(&agent.request("GET", "/api/v1/pods", None).json());

    agent.stop();
    make_old(&agent);
    let database = agent.root().join("podd.db");
    let tables = sql(&database, "SELECT name FROM sqlite_master");
    assert!(!tables.contains("claim") && !tables.contains("user_ids"), "{tables}");
    agent.start_again();

    // Nothing was started or stopped, and nothing is forgotten.
    let after = agent.wait_pod("runs", "to tell of the lack of memory", |p| {
        container(p, "killed")["lastState"]["terminated"]["reason"] == "OOMKilled"
    });
    assert_eq!(pids(&agent), processes);
    assert_eq!(container(&after, "killed")["lastState"]["terminated"]["exitCode"], 137);
    for field in ["uid", "creationTimestamp", "resourceVersion"] {
        let same = before["metadata"][field] == after["metadata"][field];
        assert!(same == (field != "resourceVersion"), "{field}: {after:#}");
    }
    assert_eq!(before["spec"], after["spec"]);
    for field in ["podIP", "startTime", "phase", "qosClass"] {
        assert_eq!(before["status"][field], after["status"][field]);
    }
    assert_eq!(container(&before, "kept"), container(&after, "kept"));
    assert_eq!(
        container(&agent.pod("failed"), "c")["state"]["terminated"]["exitCode"],
        3
    );
    assert_eq!(
        agent.request("GET", &format!("{config_maps}/conf"), None).json()["data"],
        json!({"k": "v"})
    );
    assert!(version(&agent.request("GET", "/api/v1/pods", None).json()) > newest);

    // They are counted, those that have ended are not, and their addresses are theirs.
    let claims = sql(&database, "SELECT uid, cpu_milli, memory FROM claim ORDER BY uid");
    let mut expected = [&id, &uid(&other)].map(|uid| format!("{uid}|300|16777216\n"));
    expected.sort();
    assert_eq!(claims, expected.concat());
    agent.create(&with(asking("third", &[("c", long)]), |pod| {
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("500m");
    }));
    let refused = agent.wait_phase("third", "Failed");
    assert_eq!(refused["status"]["reason"], "OutOfcpu", "{refused:#}");
    agent.create(&asking("fits", &[("c", long)]));
    let fits = agent.wait_running("fits");
    for old in [&runs, &other] {
        assert_ne!(fits["status"]["podIP"], old["status"]["podIP"]);
    }

    // And they end as ever.
    for name in ["runs", "other", "failed", "third", "fits"] {
        agent.delete(name, Some(0));
        agent.wait_gone(name);
    }
    agent.wait_no_leftovers();
}
