//! What a container leaves as its termination message.

use serde_json::{Value, json};

use crate::common::{Agent, container, pod, with};

fn run(agent: &Agent, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> Value {
    agent.create(&with(pod(name, &[("c", script)]), |pod| {
        pod["spec"]["restartPolicy"] = json!("Never");
        change(&mut pod["spec"]["containers"][0]);
    }));
    agent.wait_pod(name, "to end", |pod| {
        container(pod, "c")["state"]["terminated"].is_object()
    })
}

fn message(pod: &Value) -> &Value {
    &container(pod, "c")["state"]["terminated"]["message"]
}

#[test]
fn the_message_file_is_writable_wherever_it_is_and_for_everyone() {
    let agent = Agent::start();
    let ended = run(&agent, "words", "echo -n bye > /tmp/deep/words; exit 3", |c| {
        c["terminationMessagePath"] = json!("/tmp/deep/words");
        c["securityContext"] = json!({"runAsUser": 1000, "readOnlyRootFilesystem": true});
    });
    assert_eq!(message(&ended), "bye");
}

#[test]
fn of_a_long_message_the_end_is_told() {
    let agent = Agent::start();
    let script = "head -c 5000 /dev/zero | tr '\\0' a > /dev/termination-log; echo -n end >> /dev/termination-log";
    let ended = run(&agent, "long", script, |_| {});
    let told = message(&ended).as_str().unwrap_or_default();
    assert_eq!(told.len(), 4096);
    assert!(told.ends_with("aend"), "{told}");
}

#[test]
fn the_log_speaks_for_a_container_that_failed_without_a_word() {
    let agent = Agent::start();
    let fallback = |c: &mut Value| c["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let failed = run(&agent, "failed", "echo one; echo two >&2; exit 1", fallback);
    let told = message(&failed).as_str().unwrap_or_default();
    assert!(told.contains("one\n") && told.contains("two\n"), "{told:?}");
    let well = run(&agent, "well", "echo one", fallback);
    assert_eq!(message(&well), &Value::Null);
    let spoken = run(
        &agent,
        "spoken",
        "echo one; echo -n word > /dev/termination-log; exit 1",
        fallback,
    );
    assert_eq!(message(&spoken), "word");
}
