//! The command line: what can be said to `podd`, and what it answers a person.
//!
//! Goes in: arguments. Comes out: text on standard output, complaints on standard error, an exit code: 0 done, 1 it
//! could not be done, 2 it was not understood.

mod client;
pub mod doctor;
pub mod image;
mod progress;
pub mod token;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::{Config, DEFAULT_ROOT, Settings};
use crate::telemetry::{self, LogFormat};
use crate::{agent, api, linux};

/// How long an agent that ends waits for what it has begun on other threads.
const LEFT_BEHIND: Duration = Duration::from_secs(1);

/// A pod host for one Linux machine: Kubernetes pods over HTTP, without a cluster.
#[derive(Debug, Parser)]
#[command(name = "podd", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent
    Serve(Serve),
    /// Bring images, look at them, give them away, remove them
    Image(ImageCommand),
    /// Make, list and revoke bearer tokens
    Token(TokenCommand),
    /// Print the kubeconfig of the administrator
    Kubeconfig(Kubeconfig),
    /// Say what this machine offers, what it lacks, and what podd does about each
    Doctor(Doctor),
    /// Print the API's document
    Openapi(Openapi),
    /// Print the version
    Version,
}

#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    settings: Settings,
    /// A TOML file with the same names; flags and PODD_* variables win over it
    #[arg(long, env = "PODD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a list of target=level
    #[arg(long, env = "PODD_LOG", value_name = "LEVEL", default_value = "info")]
    log: String,
    /// How the log looks
    #[arg(long, env = "PODD_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
}

#[derive(Debug, Args)]
struct ImageCommand {
    #[command(flatten)]
    agent: AgentSocket,
    #[command(subcommand)]
    command: image::ImageSubcommand,
}

/// Which agent a client command talks to.
#[derive(Debug, Args)]
struct AgentSocket {
    /// The agent's socket
    #[arg(
        long,
        env = "PODD_SOCKET",
        value_name = "PATH",
        default_value = "/run/podd/podd.sock",
        global = true
    )]
    socket: PathBuf,
}

#[derive(Debug, Args)]
struct TokenCommand {
    /// The agent's state directory
    #[arg(long, env = "PODD_ROOT", value_name = "DIR", default_value = DEFAULT_ROOT, global = true)]
    root: PathBuf,
    #[command(subcommand)]
    command: token::TokenSubcommand,
}

#[derive(Debug, Args)]
struct Kubeconfig {
    /// The agent's state directory
    #[arg(long, env = "PODD_ROOT", value_name = "DIR", default_value = DEFAULT_ROOT)]
    root: PathBuf,
}

#[derive(Debug, Args)]
struct Doctor {
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
struct Openapi {
    /// Which version of the format it is written in
    #[arg(long, value_name = "VERSION", default_value = "3.1", value_parser = ["3.0", "3.1"])]
    format: String,
}

/// Run what the command line says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(serve) => {
            telemetry::start(&serve.log, serve.log_format)?;
            let file = serve
                .config
                .as_deref()
                .map(Settings::from_file)
                .transpose()?
                .unwrap_or_default();
            let config = Config::new(serve.settings.over(file), &linux::host::name()?)?;
            linux::process::share_heaps();
            // Two threads for the processors' sake; blocking work has a pool of its own, small to stay small: more than
            // half of it is left to containers when all pulls, imports and exports wait for slow peers (20 threads).
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .max_blocking_threads(48)
                .thread_stack_size(1 << 20)
                .enable_all()
                .build()
                .context("cannot start the asynchronous runtime")?;
            let served = runtime.block_on(agent::serve(config));
            // A layer that is unpacked or removed just now is begun anew by the next agent, as after a crash.
            runtime.shutdown_timeout(LEFT_BEHIND);
            served?;
        }
        Command::Image(ImageCommand { agent, command }) => {
            single_threaded()?.block_on(image::run(&agent.socket, command))?;
        }
        Command::Token(TokenCommand { root, command }) => {
            let mut text = Vec::new();
            token::run(&root, command, &mut text)?;
            print(&String::from_utf8_lossy(&text))?;
        }
        Command::Kubeconfig(Kubeconfig { root }) => {
            let path = root.join("admin.kubeconfig");
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!(
                    "cannot read {}: it is made at the agent's first start, for root alone",
                    path.display()
                )
            })?;
            print(&text)?;
        }
        Command::Doctor(Doctor { settings }) => {
            let config = Config::new(settings, &linux::host::name()?)?;
            let well = doctor::run(&mut std::io::stdout().lock(), &config)?;
            return Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Openapi(Openapi { format }) => {
            let version = match format.as_str() {
                "3.0" => api::openapi::Version::V3_0,
                _ => api::openapi::Version::V3_1,
            };
            print(&format!("{:#}\n", api::openapi::document(version)?))?;
        }
        Command::Version => print(&format!("podd {}\n", env!("CARGO_PKG_VERSION")))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn single_threaded() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

/// Text for standard output. A reader that has gone away (`podd ... | head`) is no error.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The error and its causes, on one line.
#[expect(
    clippy::print_stderr,
    reason = "this is the program's voice to a person at a terminal"
)]
fn complain(error: &anyhow::Error) {
    eprintln!("podd: {error:#}");
}
