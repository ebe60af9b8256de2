//! How far a pull or a push is, for a person.
//!
//! Goes in: the agent's steps. Comes out: on a terminal one bar for each layer, drawn over the last ones; elsewhere a line
//! for each thing that is done.
//!
//! **Invariant:** what is drawn is worked out by pure functions; bars go to standard error, where no result is.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::image::human;
use crate::api::images::Step;

/// Characters of a bar.
const BAR: usize = 30;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Layer {
    digest: String,
    done: u64,
    total: u64,
    unpacking: bool,
}

/// The layers as far as they are known.
#[derive(Debug)]
pub(super) struct Bars {
    layers: Vec<Layer>,
    is_terminal: bool,
    drawn: usize,
}

impl Bars {
    pub(super) fn new(is_terminal: bool) -> Self {
        Self {
            layers: Vec::new(),
            is_terminal,
            drawn: 0,
        }
    }

    /// Take in a step, and write what is new.
    pub(super) fn step(&mut self, step: &Step, out: &mut impl Write) -> io::Result<()> {
        let line = self.take(step);
        if self.is_terminal {
            self.draw(out)
        } else {
            line.map_or(Ok(()), |line| writeln!(out, "{line}"))
        }
    }

    /// The line of a step, if it is worth one.
    fn take(&mut self, step: &Step) -> Option<String> {
        match step {
            Step::Resolving => Some("resolving".to_owned()),
            Step::Packing => Some("packing".to_owned()),
            Step::Layer { digest, done, total } => {
                let layer = self.layer(digest);
                let was_done = layer.total > 0 && layer.done == layer.total;
                (layer.done, layer.total) = (*done, *total);
                (done == total && !was_done).then(|| format!("layer {} {}", short(digest), human(*total)))
            }
            Step::Unpacking { digest } => {
                self.layer(digest).unpacking = true;
                None
            }
            Step::Pulled(_) | Step::Pushed { .. } => {
                for layer in &mut self.layers {
                    (layer.done, layer.unpacking) = (layer.total, false);
                }
                None
            }
            Step::Repaired { .. } | Step::Failed { .. } => None,
        }
    }

    fn layer(&mut self, digest: &str) -> &mut Layer {
        let known = self.layers.iter().position(|layer| layer.digest == digest);
        let at = known.unwrap_or_else(|| {
            self.layers.push(Layer {
                digest: digest.to_owned(),
                done: 0,
                total: 0,
                unpacking: false,
            });
            self.layers.len() - 1
        });
        &mut self.layers[at]
    }

    fn draw(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut text = String::new();
        if self.drawn > 0 {
            // Up to the first bar.
            write!(text, "\x1b[{}A", self.drawn).expect("a String takes all that is written to it");
        }
        for layer in &self.layers {
            // Over the old one, to the end of the line.
            writeln!(text, "{}\x1b[K", bar(layer)).expect("a String takes all that is written to it");
        }
        self.drawn = self.layers.len();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

fn short(digest: &str) -> &str {
    let hex = digest.trim_start_matches("sha256:");
    hex.get(..12).unwrap_or(hex)
}

fn bar(layer: &Layer) -> String {
    let Layer {
        digest,
        done,
        total,
        unpacking,
    } = layer;
    let part = u128::from(*done) * (BAR as u128) / u128::from((*total).max(1));
    let full = usize::try_from(part).unwrap_or(BAR).min(BAR);
    let what = match (unpacking, done == total) {
        (true, _) => "unpacking".to_owned(),
        (false, true) => human(*total),
        (false, false) => format!("{}/{}", human(*done), human(*total)),
    };
    format!(
        "{} [{}{}] {what}",
        short(digest),
        "#".repeat(full),
        " ".repeat(BAR - full)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digest: &str, done: u64, total: u64) -> Step {
        Step::Layer {
            digest: format!("sha256:{digest:0>64}"),
            done,
            total,
        }
    }

    fn shown(is_terminal: bool, steps: &[Step]) -> String {
        let mut out = Vec::new();
        let mut bars = Bars::new(is_terminal);
        for step in steps {
            bars.step(step, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn elsewhere_than_on_a_terminal_there_are_plain_lines() {
        let steps = [
            Step::Resolving,
            layer("a", 10, 2000),
            layer("b", 5, 5),
            layer("a", 2000, 2000),
            layer("a", 2000, 2000),
        ];
        let want = "resolving\nlayer 000000000000 5B\nlayer 000000000000 2.0kB\n";
        assert_eq!(shown(false, &steps), want);
    }

    #[test]
    fn on_a_terminal_bars_grow_in_their_places() {
        let steps = [layer("a", 1000, 2000), layer("b", 5, 5)];
        let text = shown(true, &steps);
        let half = format!(
            "000000000000 [{}{}] 1.0kB/2.0kB\x1b[K\n",
            "#".repeat(15),
            " ".repeat(15)
        );
        let full = format!("000000000000 [{}] 5B\x1b[K\n", "#".repeat(30));
        assert_eq!(text, format!("{half}\x1b[1A{half}{full}"));
        let more = shown(true, &[layer("a", 9, 5)]);
        assert!(more.contains(&"#".repeat(30)), "{more}");
    }
}
