//! Clients at a container's output and input.

use std::fs;

use podd::runtime::stream::{SessionEnd, TerminalSize};
use podd::shim::protocol::WaitStatus;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::harness::{Sandbox, kill};
use crate::sessions::{ALL, OUTPUTS, Pod, all, end_of, in_time, say, terminal, until_it_says};

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_attach_see_the_output_and_feed_the_input() {
    let mut pod = Pod::of(Sandbox::new());
    let script = "echo before; while read line; do echo out $line; echo error $line >&2; done; echo over; exit 6";
    pod.start(&["sh", "-c", script], |_, start| start.stdin = true);
    while pod.sandbox.output("web", 0, "stdout") != "before\n" {}
    let (mut one, mut two) = (pod.attach(ALL).await, pod.attach(OUTPUTS).await);
    assert!(one.resize.is_none());
    say(&mut one, "a\n").await;
    assert_eq!(until_it_says(&mut one, "\n").await, "out a\n");
    assert_eq!(until_it_says(&mut two, "\n").await, "out a\n");
    // Closing it closes nothing but this client's part.
    one.stdin.as_mut().unwrap().shutdown().await.unwrap();
    drop(one);
    let mut three = pod.attach(ALL).await;
    say(&mut three, "b\n").await;
    assert_eq!(until_it_says(&mut three, "\n").await, "out b\n");
    assert_eq!(until_it_says(&mut two, "\n").await, "out b\n");
    kill(pod.sandbox.pid_of("web", 0));
    assert_eq!(end_of(&mut two).await, SessionEnd::Code(137));
    assert_eq!(all(&mut two, true).await, "error a\nerror b\n");
    assert_eq!(all(&mut two, false).await, "");
    assert_eq!(pod.sandbox.exited("web", 0), WaitStatus::Signal(9));
    assert_eq!(pod.sandbox.output("web", 0, "stdout"), "before\nout a\nout b\n");
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn input_once_is_closed_for_good_by_its_first_client() {
    let mut pod = Pod::of(Sandbox::new());
    pod.start(&["sh", "-c", "cat; echo over; sleep 1000"], |_, start| {
        start.stdin = true;
        start.stdin_once = true;
    });
    let mut listener = pod.attach(OUTPUTS).await;
    let mut one = pod.attach(ALL).await;
    // What was written last arrives, although nobody waits for it.
    say(&mut one, &"x".repeat(60_000)).await;
    drop(one);
    let said = until_it_says(&mut listener, "over").await;
    assert_eq!(
        said.len(),
        60_000 + "over".len() + said.matches('\n').count(),
        "{}",
        said.len()
    );
    let late = pod.attach(ALL).await;
    assert!(late.stdin.is_none() && late.stdout.is_some());
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_with_a_terminal_has_one_output_and_is_resized() {
    let mut pod = Pod::of(Sandbox::new());
    let script = "echo begin >&2; while read line; do echo $(stty size).; done";
    pod.start(&["sh", "-c", script], |spec, start| {
        spec["process"]["terminal"] = json!(true);
        start.stdin = true;
        start.stdin_once = true;
    });
    let mut session = pod.attach(terminal(101, 33)).await;
    assert!(session.resize.is_some() && session.stdin.is_some());
    let mut other = pod.attach(OUTPUTS).await;
    assert_eq!(all(&mut other, true).await, "", "it ends at once");
    let mut said = String::new();
    while !said.contains("33 101") {
        say(&mut session, "\r").await;
        said = until_it_says(&mut session, ".").await;
    }
    let resize = session.resize.clone().unwrap();
    resize.send(TerminalSize { width: 55, height: 11 }).await.unwrap();
    while !said.contains("11 55") {
        say(&mut session, "\r").await;
        said = until_it_says(&mut session, ".").await;
    }
    drop(session);
    // Its input cannot be closed: the next client finds it open.
    let mut next = pod.attach(terminal(20, 10)).await;
    while !said.contains("10 20") {
        say(&mut next, "\r").await;
        said = until_it_says(&mut next, ".").await;
    }
    let log = fs::read_to_string(pod.sandbox.log_path("web", 0)).unwrap();
    assert!(
        log.lines().all(|line| line.split(' ').nth(1) == Some("stdout")),
        "{log}"
    );
    assert!(pod.sandbox.output("web", 0, "stdout").contains("begin"));
    pod.sandbox.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_cut_off_and_nobody_else_loses_anything() {
    const LINES: usize = 100_000;
    let mut pod = Pod::of(Sandbox::new());
    pod.start(&["sh", "-c", "read go; seq 1 100000; echo over"], |_, start| {
        start.stdin = true;
    });
    let mut slow = pod.attach(ALL).await;
    let mut quick = pod.attach(OUTPUTS).await;
    let reading = tokio::spawn(async move {
        let text = all(&mut quick, false).await;
        (text, end_of(&mut quick).await)
    });
    say(&mut slow, "go\n").await;
    let SessionEnd::Lost(why) = end_of(&mut slow).await else {
        panic!("it was not cut off")
    };
    assert_eq!(why, "cut off: the output was not read");
    let (text, end) = in_time(reading).await.unwrap();
    assert_eq!(end, SessionEnd::Code(0));
    assert_eq!(text.lines().count(), LINES + 1);
    assert!(text.ends_with("100000\nover\n"));
    assert_eq!(pod.sandbox.exited("web", 0), WaitStatus::Code(0));
    assert_eq!(pod.sandbox.output("web", 0, "stdout"), text);
    pod.sandbox.stop();
}
