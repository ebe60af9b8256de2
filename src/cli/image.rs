//! `podd image import | list | remove`, through the running agent's socket.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use futures_util::TryStreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use super::client::{RequestBody, escaped, no_body, request};
use crate::api::images::{IMAGES, IMPORT, Image, ImageList};

/// Work with the agent's images.
#[derive(Debug, Clone, Subcommand)]
pub enum ImageSubcommand {
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
    /// Remove an image by name or id.
    Remove { name: String },
}

/// Carry out a command, and say on standard output what came of it.
pub async fn run(socket: &Path, command: ImageSubcommand) -> anyhow::Result<()> {
    let mut text = Vec::new();
    run_to(socket, command, &mut text).await?;
    match std::io::stdout().lock().write_all(&text) {
        // A reader that has gone away (`podd image list | head`) is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("cannot write the output"),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn run_to(socket: &Path, command: ImageSubcommand, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        ImageSubcommand::Import { file, name } => {
            let file = if file == Path::new("-") {
                PathBuf::from("/dev/stdin")
            } else {
                file
            };
            let opened = tokio::fs::File::open(&file).await;
            let body = body_of(opened.with_context(|| format!("cannot open {}", file.display()))?);
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
    }
    Ok(())
}

fn body_of(reader: impl AsyncRead + Send + Sync + 'static) -> RequestBody {
    const CHUNK: usize = 256 * 1024;
    StreamBody::new(ReaderStream::with_capacity(reader, CHUNK).map_ok(Frame::data)).boxed()
}

fn images(answer: &[u8]) -> anyhow::Result<Vec<Image>> {
    let list: ImageList = serde_json::from_slice(answer).context("podd's answer is not a list of images")?;
    Ok(list.images)
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
fn human(bytes: u64) -> String {
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
}
