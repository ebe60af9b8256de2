//! Short soaks: the agent is killed at random moments, under a churn of pods and under pods in which nothing happens.
//! `make soak KILLS=200` and `make soak-steady KILLS=300` are the long ones; all are `benches/soak.py`, whose seed is
//! printed.

use std::process::Command;

fn soak(arguments: &[&str]) {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/soak.py"))
        .args(arguments)
        .args(["--binary", env!("CARGO_BIN_EXE_podd")])
        .output()
        .expect("python3 is installed");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn agents_killed_at_random_moments_lose_nothing_double_nothing_and_leave_nothing() {
    soak(&["--kills", "12", "--pods", "10"]);
}

#[test]
fn agents_killed_at_random_moments_change_nothing_of_pods_in_which_nothing_happens() {
    soak(&["--steady", "--kills", "8"]);
}
