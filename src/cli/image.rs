//! `podd image ...`, through the running agent's socket.

use std::io::{IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::client::{RequestBody, escaped, no_body, request, stream};
use super::progress::Bars;
use crate::api::images::{
    EXPORT, IMAGES, IMPORT, INSPECT, Image, ImageDetails, ImageList, Login, PRUNE, PULL, PUSH, Pruned, REPAIR, Step,
    TAG, VERIFY, Verification, VerifiedImage,
};

/// Work with the agent's images.
#[derive(Debug, Clone, Subcommand)]
pub enum ImageSubcommand {
    /// Pull an image from its registry, whether it is there or not.
    Pull {
        name: String,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Give an image to a registry, its layers packed anew.
    Push {
        name: String,
        /// What it shall be called there; without, it keeps its name.
        to: Option<String>,
        #[command(flatten)]
        login: LoginArgs,
    },
    /// Import an archive: docker-archive, oci-archive or a plain root filesystem tar, each also gzip or zstd.
    Import {
        /// The archive; `-` is standard input.
        file: PathBuf,
        /// How the image is to be called. An archive of images names them itself; a root filesystem needs this.
        #[arg(long, value_name = "REF")]
        name: Option<String>,
    },
    /// List the images that are there.
    List,
    /// Print all that is known of an image, as JSON.
    Inspect {
        /// A name, an id, or the beginning of an id (12 digits).
        name: String,
    },
    /// Give an image one more name.
    Tag {
        /// The image.
        name: String,
        /// The new name; an image that had it has it no more.
        new: String,
    },
    /// Remove an image by name or id.
    Remove { name: String },
    /// Write an image as an OCI archive, which skopeo, podman, containerd and podd read.
    Export {
        name: String,
        /// Where to; `-` is standard output.
        #[arg(long, short, value_name = "FILE", default_value = "-")]
        output: PathBuf,
    },
    /// Remove every image that no pod uses.
    Prune,
    /// Read all that is stored of an image, or of all images, and compare it with what it was when it came.
    Verify { name: Option<String> },
    /// Pull again what is damaged of an image, or of all images, and no pod uses.
    Repair {
        name: Option<String>,
        #[command(flatten)]
        login: LoginArgs,
    },
}

/// What the registry is shown, before what the agent itself has.
#[derive(Debug, Clone, Default, Args)]
pub struct LoginArgs {
    /// Log in as this user, with --password-stdin
    #[arg(long, value_name = "NAME", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// A docker config to take credentials from
    #[arg(long, env = "REGISTRY_AUTH_FILE", value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl LoginArgs {
    fn body(self) -> anyhow::Result<RequestBody> {
        let Self {
            username,
            password_stdin,
            authfile,
        } = self;
        let password = password_stdin
            .then(|| std::io::read_to_string(std::io::stdin()))
            .transpose()
            .context("cannot read the password")?;
        let config = authfile
            .map(|file| std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display())));
        let login = Login {
            username,
            // `echo` ends it with a line end that is not part of it.
            password: password.map(|password| password.trim_end_matches(['\r', '\n']).to_owned()),
            config: config.transpose()?,
        };
        Ok(Full::new(serde_json::to_vec(&login)?.into())
            .map_err(|never| match never {})
            .boxed())
    }
}

/// Carry out a command, and say on standard output what came of it.
pub async fn run(socket: &Path, command: ImageSubcommand) -> anyhow::Result<()> {
    match run_to(socket, command, &mut std::io::stdout()).await {
        // A reader that has gone away (`podd image list | head`) is no error.
        Err(error) if is_broken_pipe(&error) => Ok(()),
        done => done,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

async fn run_to(socket: &Path, command: ImageSubcommand, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        ImageSubcommand::Pull { name, login } => {
            let path = format!("{PULL}?name={}", escaped(&name));
            follow(socket, &path, login, out).await?;
        }
        ImageSubcommand::Push { name, to, login } => {
            let to = to.map(|to| format!("&to={}", escaped(&to))).unwrap_or_default();
            let path = format!("{PUSH}?name={}{to}", escaped(&name));
            follow(socket, &path, login, out).await?;
        }
        ImageSubcommand::Repair { name, login } => {
            let path = match name {
                Some(name) => format!("{REPAIR}?name={}", escaped(&name)),
                None => REPAIR.to_owned(),
            };
            follow(socket, &path, login, out).await?;
        }
        ImageSubcommand::Import { file, name } => {
            let file = if file == Path::new("-") {
                PathBuf::from("/dev/stdin")
            } else {
                file
            };
            let opened = tokio::fs::File::open(&file).await;
            let opened = opened.with_context(|| format!("cannot open {}", file.display()))?;
            anyhow::ensure!(
                !opened.metadata().await?.is_dir(),
                "{} is a directory: an archive of it can be imported",
                file.display()
            );
            let body = body_of(opened);
            let path = match name {
                Some(name) => format!("{IMPORT}?name={}", escaped(&name)),
                None => IMPORT.to_owned(),
            };
            let answer = request(socket, Method::POST, &path, body).await?;
            for image in images(&answer)? {
                for name in &image.names {
                    writeln!(out, "imported {name} {} {}", image.id, human(image.size))?;
                }
            }
        }
        ImageSubcommand::List => {
            let answer = request(socket, Method::GET, IMAGES, no_body()).await?;
            table(&images(&answer)?, out)?;
        }
        ImageSubcommand::Remove { name } => {
            let path = format!("{IMAGES}?name={}", escaped(&name));
            request(socket, Method::DELETE, &path, no_body()).await?;
            writeln!(out, "removed {name}")?;
        }
        ImageSubcommand::Inspect { name } => {
            let path = format!("{INSPECT}?name={}", escaped(&name));
            let answer = request(socket, Method::GET, &path, no_body()).await?;
            let details: ImageDetails = understood(&answer)?;
            writeln!(out, "{}", serde_json::to_string_pretty(&details)?)?;
        }
        ImageSubcommand::Tag { name, new } => {
            let path = format!("{TAG}?name={}&new={}", escaped(&name), escaped(&new));
            request(socket, Method::POST, &path, no_body()).await?;
            writeln!(out, "tagged {name} as {new}")?;
        }
        ImageSubcommand::Export { name, output } => export(socket, &name, &output, out).await?,
        ImageSubcommand::Prune => {
            let answer = request(socket, Method::POST, PRUNE, no_body()).await?;
            let Pruned { leftovers, images } = understood(&answer)?;
            for pruned in &images {
                writeln!(out, "removed {} {}", label(&pruned.image), human(pruned.freed))?;
            }
            if leftovers > 0 {
                writeln!(out, "removed layers of failed pulls {}", human(leftovers))?;
            }
            let freed = images
                .iter()
                .map(|pruned| pruned.freed)
                .fold(leftovers, u64::saturating_add);
            writeln!(out, "freed {}", human(freed))?;
        }
        ImageSubcommand::Verify { name } => {
            let path = match name {
                Some(name) => format!("{VERIFY}?name={}", escaped(&name)),
                None => VERIFY.to_owned(),
            };
            let answer = request(socket, Method::POST, &path, no_body()).await?;
            let Verification { images } = understood(&answer)?;
            let damaged = images.iter().filter(|image| !image.damage.is_empty()).count();
            tell_damage(&images, out)?;
            anyhow::ensure!(
                damaged == 0,
                "{damaged} of {} images {} damaged: `podd image repair` brings them anew",
                images.len(),
                if damaged == 1 { "is" } else { "are" }
            );
        }
    }
    Ok(())
}

/// Show how far the work is, and say what came of it.
async fn follow(socket: &Path, path: &str, login: LoginArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let mut bars = Bars::new(std::io::stderr().is_terminal());
    let mut rest: Vec<u8> = Vec::new();
    let mut failures = Vec::new();
    let mut each = |bytes: &[u8]| {
        rest.extend(bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let step: Step = serde_json::from_slice(&line)?;
            bars.step(&step, &mut std::io::stderr().lock())?;
            match step {
                Step::Pulled(image) => writeln!(out, "pulled {} {} {}", label(&image), image.id, human(image.size))?,
                Step::Pushed { digest } => writeln!(out, "pushed {digest}")?,
                Step::Repaired { image, error: None } => writeln!(out, "repaired {}", label(&image))?,
                Step::Repaired {
                    image,
                    error: Some(error),
                } => failures.push(format!("{}: {error}", label(&image))),
                Step::Failed { message } => failures.push(message),
                Step::Resolving | Step::Packing | Step::Layer { .. } | Step::Unpacking { .. } => {}
            }
        }
        Ok(())
    };
    stream(socket, Method::POST, path, login.body()?, &mut each).await?;
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

fn tell_damage(images: &[VerifiedImage], out: &mut impl Write) -> std::io::Result<()> {
    for VerifiedImage { image, damage } in images {
        if damage.is_empty() {
            writeln!(out, "{}: whole", label(image))?;
        }
        for damage in damage {
            writeln!(out, "{}: {damage}", label(image))?;
        }
    }
    Ok(())
}

/// A file appears when it is whole.
async fn export(socket: &Path, name: &str, output: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let path = format!("{EXPORT}?name={}", escaped(name));
    if output == Path::new("-") {
        anyhow::ensure!(
            !std::io::stdout().is_terminal(),
            "an archive is nothing for a terminal: give it a file with --output"
        );
        stream(socket, Method::GET, &path, no_body(), |bytes| out.write_all(bytes)).await?;
        return Ok(());
    }
    let mut part = output.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = std::fs::File::create(&part).with_context(|| format!("cannot make {}", part.display()))?;
    let written = stream(socket, Method::GET, &path, no_body(), |bytes| file.write_all(bytes)).await;
    let kept = match written {
        Ok(()) => std::fs::rename(&part, output).with_context(|| format!("cannot make {}", output.display())),
        Err(error) => Err(error.into()),
    };
    if kept.is_err() {
        // It may be gone, and the first error is the one to tell.
        let _ = std::fs::remove_file(&part);
    }
    kept?;
    writeln!(out, "exported {name} to {}", output.display())?;
    Ok(())
}

fn understood<'a, T: serde::Deserialize<'a>>(answer: &'a [u8]) -> anyhow::Result<T> {
    serde_json::from_slice(answer).context("podd's answer is not understood: is the agent another version?")
}

/// What a person calls an image.
fn label(image: &Image) -> &str {
    image.names.first().unwrap_or(&image.id)
}

fn body_of(reader: impl AsyncRead + Send + Sync + 'static) -> RequestBody {
    const CHUNK: usize = 256 * 1024;
    StreamBody::new(ReaderStream::with_capacity(reader, CHUNK).map_ok(Frame::data)).boxed()
}

fn images(answer: &[u8]) -> anyhow::Result<Vec<Image>> {
    let ImageList { images } = understood(answer)?;
    Ok(images)
}

/// A line for each name; an image without one is `<none>`.
fn table(images: &[Image], out: &mut impl Write) -> std::io::Result<()> {
    let mut rows = vec![["NAME", "IMAGE ID", "SIZE", "IMPORTED"].map(str::to_owned)];
    for image in images {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let imported = image
            .imported
            .split('.')
            .next()
            .unwrap_or_default()
            .trim_end_matches('Z')
            .to_owned()
            + "Z";
        let none = ["<none>".to_owned()];
        let names = if image.names.is_empty() {
            &none[..]
        } else {
            &image.names
        };
        for name in names {
            rows.push([name.clone(), id.clone(), human(image.size), imported.clone()]);
        }
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    for [name, id, size, imported] in &rows {
        let [a, b, c] = widths;
        writeln!(out, "{name:<a$}   {id:<b$}   {size:<c$}   {imported}")?;
    }
    Ok(())
}

/// `4.2MB`, as docker and podman count: in thousands, three digits.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut scale = 1_u64;
    while unit + 1 < UNITS.len() && bytes / scale >= 1000 {
        unit += 1;
        scale *= 1000;
    }
    let whole = bytes / scale;
    let tenth = bytes % scale / (scale / 10).max(1);
    if unit == 0 || whole >= 100 {
        format!("{whole}{}", UNITS[unit])
    } else {
        format!("{whole}.{tenth}{}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::ClientError;
    use crate::image::{ImageStore, Limits};
    use crate::store::Store;

    #[test]
    fn sizes_are_for_people() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0kB"),
            (4_260_000, "4.2MB"),
            (123_456_789, "123MB"),
            (u64::MAX, "18446744TB"),
        ] {
            assert_eq!(human(bytes), want);
        }
    }

    #[test]
    fn images_are_listed_name_by_name() {
        let image = |names: &[&str], size| Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            digest: String::new(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            size,
            imported: "2026-01-02T03:04:05.678Z".to_owned(),
        };
        let mut out = Vec::new();
        table(
            &[image(&["docker.io/library/a:1", "b.io/c:2"], 5_000_000), image(&[], 10)],
            &mut out,
        )
        .unwrap();
        let want = "\
NAME                    IMAGE ID       SIZE    IMPORTED
docker.io/library/a:1   abababababab   5.0MB   2026-01-02T03:04:05Z
b.io/c:2                abababababab   5.0MB   2026-01-02T03:04:05Z
<none>                  abababababab   10B     2026-01-02T03:04:05Z
";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    /// An agent with images and nothing else, on a socket.
    struct Agent {
        directory: tempfile::TempDir,
        server: tokio::task::JoinHandle<()>,
    }

    impl Agent {
        async fn new(limits: Limits) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(&directory.path().join("podd.db")).await.unwrap();
            let clock = || "2026-01-02T03:04:05Z".parse().unwrap();
            let images = ImageStore::open(&directory.path().join("images"), store, limits, clock)
                .await
                .unwrap();
            let listener = tokio::net::UnixListener::bind(directory.path().join("podd.sock")).unwrap();
            let server = async move { axum::serve(listener, crate::api::images::router(images)).await.unwrap() };
            Self {
                directory,
                server: tokio::spawn(server),
            }
        }

        async fn run(&self, command: ImageSubcommand) -> Result<String, String> {
            let mut out = Vec::new();
            let done = run_to(&self.directory.path().join("podd.sock"), command, &mut out).await;
            done.map_err(|error| format!("{error:#}"))?;
            Ok(String::from_utf8(out).unwrap())
        }

        async fn import(&self, bytes: &[u8], name: Option<&str>) -> Result<String, String> {
            let file = self.directory.path().join("archive");
            std::fs::write(&file, bytes).unwrap();
            self.run(ImageSubcommand::Import {
                file,
                name: name.map(str::to_owned),
            })
            .await
        }

        async fn remove(&self, name: &str) -> Result<String, String> {
            self.run(ImageSubcommand::Remove { name: name.to_owned() }).await
        }
    }

    impl Drop for Agent {
        fn drop(&mut self) {
            self.server.abort();
        }
    }

    fn root_filesystem(size: usize) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o755);
        // Larger than the API's limit for other bodies, and not to be compressed.
        let noise: Vec<u8> = (0..size)
            .map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()[5])
            .collect();
        builder.append_data(&mut header, "bin/sh", &noise[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn limits() -> Limits {
        Limits {
            keep_free: 0,
            upload: 8 << 20,
            ..Limits::default()
        }
    }

    #[tokio::test]
    async fn images_go_in_and_out_through_the_socket() {
        let agent = Agent::new(limits()).await;
        let said = agent
            .import(&root_filesystem(5_000_000), Some("demo/busybox:1"))
            .await
            .unwrap();
        assert!(said.starts_with("imported docker.io/demo/busybox:1 sha256:"), "{said}");
        assert!(said.ends_with(" 5.0MB\n"), "{said}");
        let list = agent.run(ImageSubcommand::List).await.unwrap();
        assert!(
            list.lines().nth(1).unwrap().starts_with("docker.io/demo/busybox:1   "),
            "{list}"
        );
        assert_eq!(
            agent.remove("demo/busybox:1").await.unwrap(),
            "removed demo/busybox:1\n"
        );
        assert_eq!(agent.run(ImageSubcommand::List).await.unwrap().lines().count(), 1);
    }

    #[tokio::test]
    async fn what_fails_is_said_in_words() {
        let agent = Agent::new(limits()).await;
        let error = agent.import(&root_filesystem(10), None).await.unwrap_err();
        assert_eq!(
            error,
            "a plain root filesystem has no name of its own: give it one with --name"
        );
        let error = agent.import(b"nonsense", Some("a")).await.unwrap_err();
        assert_eq!(error, "the archive is cut off");
        let error = agent.import(&root_filesystem(10), Some("A B&c=d%")).await.unwrap_err();
        assert_eq!(
            error,
            "invalid image name \"A B&c=d%\": invalid reference format: repository name (library/A B&c=d%) must be lowercase"
        );
        // The answer comes before the upload is through.
        let error = agent.import(&root_filesystem(30 << 20), Some("a")).await.unwrap_err();
        assert_eq!(error, "the archive is larger than the limit of 8388608 bytes");
        let error = agent.remove("nothing").await.unwrap_err();
        assert_eq!(error, "image \"nothing\" is not there");
        let missing = ImageSubcommand::Import {
            file: PathBuf::from("/nonexistent"),
            name: None,
        };
        assert!(
            agent
                .run(missing)
                .await
                .unwrap_err()
                .starts_with("cannot open /nonexistent")
        );
        let error = run_to(
            Path::new("/nonexistent/podd.sock"),
            ImageSubcommand::List,
            &mut Vec::new(),
        )
        .await;
        assert!(error.unwrap_err().to_string().contains("is `podd serve` running?"));
    }

    #[tokio::test]
    async fn errors_are_kubernetes_statuses() {
        let agent = Agent::new(limits()).await;
        let socket = agent.directory.path().join("podd.sock");
        let error = request(&socket, Method::DELETE, "/podd/v1/images?name=x", no_body())
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Refused { code: 404, .. }), "{error:?}");
        let error = request(&socket, Method::POST, "/podd/v1/images/import?name=A", no_body())
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::Refused { code: 400, .. }), "{error:?}");
        let error = agent.import(&root_filesystem(10), None).await.unwrap_err();
        assert!(error.contains("--name"));
    }

    #[tokio::test]
    async fn a_socket_may_have_a_long_path() {
        let agent = Agent::new(limits()).await;
        let long = agent.directory.path().join("d".repeat(120));
        std::fs::create_dir(&long).unwrap();
        std::fs::rename(agent.directory.path().join("podd.sock"), long.join("podd.sock")).unwrap();
        let mut out = Vec::new();
        run_to(&long.join("podd.sock"), ImageSubcommand::List, &mut out)
            .await
            .unwrap();
        assert!(out.starts_with(b"NAME"));
    }
}
