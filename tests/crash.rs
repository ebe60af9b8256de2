//! A short soak: the agent is killed at random moments under a churn of pods, and nothing may be doubled, wrong or left.
//! `make soak KILLS=200` is the long one; both are `benches/soak.py`, whose seed is printed.

use std::process::Command;

#[test]
fn agents_killed_at_random_moments_lose_nothing_double_nothing_and_leave_nothing() {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/benches/soak.py"))
        .args(["--kills", "12", "--pods", "10", "--binary", env!("CARGO_BIN_EXE_podd")])
        .output()
        .expect("python3 is installed");
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
