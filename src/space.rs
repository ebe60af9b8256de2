//! Keeps room on the disk: when it fills up, images that no pod uses go.
//!
//! Goes in: how full the disk of the images is, every five minutes. Comes out: images removed, and an event on the Node
//! when that is not enough. Thresholds, order, reasons and messages are a kubelet's (`images/image_gc_manager.go`).
//!
//! **Invariant:** nothing is removed below the high threshold, and never what is in use: `image` sees to that.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::event::{Recorder, Severity, Source, Subject};
use crate::image::{ImageStore, RemoveError};

/// Kubelet `ImageGCPeriod`.
const PERIOD: Duration = Duration::from_mins(5);

/// When room is made, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Percent of the disk from which on images go; 100: never.
    pub high: u8,
    /// Percent of the disk down to which they go.
    pub low: u8,
    /// Images that came later stay.
    pub minimum_age: Duration,
}

/// How full a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub capacity: u64,
    /// Bytes that can still be written.
    pub available: u64,
}

impl Disk {
    /// Of the file system of `path`.
    ///
    /// # Errors
    /// There is no such path.
    pub fn of(path: &std::path::Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(Self {
            capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

impl Policy {
    /// Bytes to be freed; zero below the high threshold. `None`: the disk says that it has no size.
    fn wanted(&self, disk: Disk) -> Option<u64> {
        let Disk { capacity, available } = disk;
        // What is reserved for root can make more available than there is.
        let available = available.min(capacity);
        // Cut to whole percents, as a kubelet has it.
        let free_percent = u128::from(available) * 100 / (capacity > 0).then_some(u128::from(capacity))?;
        if self.high >= 100 || 100 - free_percent < u128::from(self.high) {
            return Some(0);
        }
        let target = u128::from(capacity) * u128::from(100 - self.low.min(100)) / 100;
        Some(u64::try_from(target).unwrap_or(u64::MAX).saturating_sub(available))
    }
}

/// Room could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    #[error("cannot tell how full the disk of {path} is")]
    Disk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("invalid capacity 0 on image filesystem")]
    NoCapacity,
    #[error(
        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
    )]
    TooLittle { wanted: u64, freed: u64 },
    #[error("cannot remove images")]
    Remove(#[from] RemoveError),
}

/// Keeps room on the disk of the images.
#[derive(Debug)]
pub struct Space {
    pub images: ImageStore,
    pub recorder: Recorder,
    pub node_name: String,
    /// Where the images lie.
    pub root: PathBuf,
    pub policy: Policy,
    /// [`Disk::of`].
    pub look: fn(&std::path::Path) -> io::Result<Disk>,
}

impl Space {
    /// Until `stop` says so.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut rounds = tokio::time::interval(PERIOD);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failed_before = false;
        loop {
            tokio::select! {
                // Cancel-safe: a watch receiver loses nothing when its future is dropped.
                told = stop.changed() => if told.is_err() || *stop.borrow() { return },
                // Cancel-safe: a tick that was not taken stays due.
                _ = rounds.tick() => failed_before = self.round(failed_before).await,
            }
        }
    }

    /// True: it failed.
    async fn round(&self, failed_before: bool) -> bool {
        let Err(error) = self.collect().await else {
            return false;
        };
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "image garbage collection failed"
        );
        // A kubelet's rule: once may be bad luck.
        if failed_before {
            self.tell("ImageGCFailed", &error);
        }
        true
    }

    /// Make room if there is too little.
    ///
    /// # Errors
    /// It could not be made, or not enough of it.
    pub async fn collect(&self) -> Result<(), SpaceError> {
        let disk = (self.look)(&self.root).map_err(|source| SpaceError::Disk {
            path: self.root.clone(),
            source,
        })?;
        let Some(wanted) = self.policy.wanted(disk) else {
            let error = SpaceError::NoCapacity;
            self.tell("InvalidDiskCapacity", &error);
            return Err(error);
        };
        if wanted == 0 {
            return Ok(());
        }
        tracing::info!(
            capacity = disk.capacity,
            available = disk.available,
            wanted,
            "the disk is full: images go"
        );
        let collected = self.images.free(wanted, self.policy.minimum_age).await?;
        if collected.leftovers > 0 {
            tracing::info!(
                freed = collected.leftovers,
                "what failed pulls have left was removed to make room"
            );
        }
        for one in &collected.images {
            tracing::info!(id = one.image.id, names = ?one.image.names, freed = one.freed, "image removed to make room");
        }
        let freed = collected.total();
        if freed < wanted {
            let error = SpaceError::TooLittle { wanted, freed };
            self.tell("FreeDiskSpaceFailed", &error);
            return Err(error);
        }
        Ok(())
    }

    fn tell(&self, reason: &'static str, error: &SpaceError) {
        let subject = Subject::node(&self.node_name);
        let message = error.to_string();
        self.recorder
            .tell(Source::Kubelet, subject, Severity::Warning, reason, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EVENT;
    use crate::image::Limits;
    use crate::model::Timestamp;
    use crate::store::Store;

    const POLICY: Policy = Policy {
        high: 85,
        low: 80,
        minimum_age: Duration::ZERO,
    };

    #[test]
    fn room_is_made_from_the_high_threshold_down_to_the_low_one() {
        let disk = |available| Disk {
            capacity: 1000,
            available,
        };
        for (available, wanted) in [(1000, 0), (160, 0), (159, 41), (150, 50), (0, 200), (2000, 0)] {
            assert_eq!(POLICY.wanted(disk(available)), Some(wanted), "{available}");
        }
        let never = Policy { high: 100, ..POLICY };
        assert_eq!(never.wanted(disk(0)), Some(0));
        let empty = Disk {
            capacity: 0,
            available: 0,
        };
        assert_eq!(POLICY.wanted(empty), None);
    }

    fn clock() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    #[tokio::test]
    async fn a_full_disk_costs_images_and_what_is_not_enough_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("podd.db")).await.unwrap();
        let limits = Limits {
            keep_free: 0,
            ..Limits::default()
        };
        let images = ImageStore::open(&directory.path().join("images"), store.clone(), limits, clock)
            .await
            .unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(100);
        tar.append_data(&mut header, "file", &[b'x'; 100][..]).unwrap();
        let tar = tar.into_inner().unwrap();
        images.import(&tar[..], Some("a")).await.unwrap();
        let mut space = Space {
            images: images.clone(),
            recorder: Recorder::hasty(store.clone(), clock),
            node_name: "node-1".to_owned(),
            root: directory.path().to_owned(),
            policy: POLICY,
            look: |_| {
                Ok(Disk {
                    capacity: 1000,
                    available: 160,
                })
            },
        };
        space.collect().await.unwrap();
        assert_eq!(images.list().await.unwrap().len(), 1, "there is room enough");
        space.look = |_| {
            Ok(Disk {
                capacity: 1000,
                available: 100,
            })
        };
        space.collect().await.unwrap();
        assert_eq!(images.list().await.unwrap(), []);

        let mut changes = store.subscribe();
        let error = space.collect().await.unwrap_err();
        let message = "Failed to garbage collect required amount of images. Attempted to free 100 bytes, but only found 0 bytes eligible to free.";
        assert_eq!(error.to_string(), message);
        assert!(space.round(true).await);
        let mut told = Vec::new();
        while told.len() < 2 {
            let change = changes.recv().await.unwrap();
            if &*change.object.kind == EVENT {
                assert_eq!(change.object.json["message"], message);
                assert_eq!(change.object.json["involvedObject"]["kind"], "Node");
                let reason = change.object.json["reason"].as_str().unwrap().to_owned();
                if !told.contains(&reason) {
                    told.push(reason);
                }
            }
        }
        told.sort();
        assert_eq!(told, ["FreeDiskSpaceFailed", "ImageGCFailed"]);
    }
}
