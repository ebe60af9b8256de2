//! One binary, several roles: they are told apart here, before any thread exists.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|role| role == "shim") {
        // The process that shims are forked from: single-threaded for ever.
        return podd::shim::zygote::main();
    }
    podd::cli::main()
}
