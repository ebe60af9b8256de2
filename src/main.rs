//! podd

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|role| role == "shim") {
        return podd::shim::zygote::main();
    }
    ExitCode::FAILURE
}
