//! The options of an OCI mount, understood as runc understands them.
//!
//! Goes in: the words of `mounts[].options`. Comes out: flags for mount(2) and `mount_setattr(2)`, propagation, and the
//! words that are left for the file system itself.

use nix::libc;

use super::sys::MountAttr;

const ATTR_RDONLY: u64 = 0x1;
const ATTR_NOSUID: u64 = 0x2;
const ATTR_NODEV: u64 = 0x4;
const ATTR_NOEXEC: u64 = 0x8;
/// The three kinds of access time are one field; it is cleared before one of them is set.
const ATTR_ATIME: u64 = 0x70;
const ATTR_NOATIME: u64 = 0x10;
const ATTR_STRICTATIME: u64 = 0x20;
const ATTR_NODIRATIME: u64 = 0x80;
const ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

/// What the options of one mount ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct MountOptions {
    /// `bind` or `rbind`.
    pub(super) bind: Option<Recursive>,
    /// For mount(2) of a new file system.
    pub(super) flags: libc::c_ulong,
    /// For a bind mount: what is changed on the mount itself.
    pub(super) attr: MountAttr,
    /// For a bind mount: what is changed on it and on all mounts beneath (`rro` and its like).
    pub(super) attr_recursive: MountAttr,
    /// In the order given: `MS_PRIVATE` and its like, each with or without `MS_REC`.
    pub(super) propagation: Vec<libc::c_ulong>,
    /// For the file system: `size=64k,mode=755`.
    pub(super) data: String,
}

/// Only the mount itself, or those beneath it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recursive {
    No,
    Yes,
}

/// An option that podd cannot carry out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("mount option {option:?} is not supported")]
pub struct UnsupportedOption {
    pub option: String,
}

impl MountOptions {
    pub(super) fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Result<Self, UnsupportedOption> {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option)?;
        }
        Ok(parsed)
    }

    fn add(&mut self, option: &str) -> Result<(), UnsupportedOption> {
        if let Some((flag, clear)) = mount_flag(option) {
            if clear {
                self.flags &= !flag;
            } else {
                self.flags |= flag;
            }
        }
        if let Some((set, clear)) = attribute(option) {
            apply(&mut self.attr, set, clear);
            return Ok(());
        }
        if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute) {
            apply(&mut self.attr_recursive, set, clear);
            return Ok(());
        }
        if mount_flag(option).is_some() {
            return Ok(());
        }
        match option {
            "bind" => self.bind = Some(self.bind.unwrap_or(Recursive::No)),
            "rbind" => self.bind = Some(Recursive::Yes),
            "private" => self.propagation.push(libc::MS_PRIVATE),
            "rprivate" => self.propagation.push(libc::MS_PRIVATE | libc::MS_REC),
            "slave" => self.propagation.push(libc::MS_SLAVE),
            "rslave" => self.propagation.push(libc::MS_SLAVE | libc::MS_REC),
            "shared" => self.propagation.push(libc::MS_SHARED),
            "rshared" => self.propagation.push(libc::MS_SHARED | libc::MS_REC),
            "unbindable" => self.propagation.push(libc::MS_UNBINDABLE),
            "runbindable" => self.propagation.push(libc::MS_UNBINDABLE | libc::MS_REC),
            "" | "defaults" => {}
            "idmap" | "ridmap" | "tmpcopyup" | "remount" => {
                return Err(UnsupportedOption {
                    option: option.to_owned(),
                });
            }
            for_the_file_system => {
                if !self.data.is_empty() {
                    self.data.push(',');
                }
                self.data.push_str(for_the_file_system);
            }
        }
        Ok(())
    }

    /// Whether mounts made inside the container shall be seen outside.
    pub(super) fn shared(&self) -> bool {
        self.propagation.iter().any(|flags| flags & libc::MS_SHARED != 0)
    }
}

fn apply(attr: &mut MountAttr, set: u64, clear: u64) {
    // The last word about a field wins.
    attr.attr_set = (attr.attr_set & !clear) | set;
    attr.attr_clr |= clear;
    // The kernel refuses a bit that is cleared and set, but for the access time's field.
    let both = attr.attr_set & attr.attr_clr & !ATTR_ATIME;
    attr.attr_clr &= !both;
}

/// (set, clear) of `mount_setattr(2)`.
fn attribute(option: &str) -> Option<(u64, u64)> {
    Some(match option {
        "ro" => (ATTR_RDONLY, ATTR_RDONLY),
        "rw" => (0, ATTR_RDONLY),
        "nosuid" => (ATTR_NOSUID, ATTR_NOSUID),
        "suid" => (0, ATTR_NOSUID),
        "nodev" => (ATTR_NODEV, ATTR_NODEV),
        "dev" => (0, ATTR_NODEV),
        "noexec" => (ATTR_NOEXEC, ATTR_NOEXEC),
        "exec" => (0, ATTR_NOEXEC),
        "nodiratime" => (ATTR_NODIRATIME, ATTR_NODIRATIME),
        "diratime" => (0, ATTR_NODIRATIME),
        "noatime" => (ATTR_NOATIME, ATTR_ATIME),
        "strictatime" => (ATTR_STRICTATIME, ATTR_ATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, ATTR_ATIME),
        "nosymfollow" => (ATTR_NOSYMFOLLOW, ATTR_NOSYMFOLLOW),
        "symfollow" => (0, ATTR_NOSYMFOLLOW),
        _ => return None,
    })
}

/// (flag, whether it is taken away) of mount(2).
fn mount_flag(option: &str) -> Option<(libc::c_ulong, bool)> {
    const MS_NOSYMFOLLOW: libc::c_ulong = 0x100;
    const MS_LAZYTIME: libc::c_ulong = 1 << 25;
    Some(match option {
        "ro" => (libc::MS_RDONLY, false),
        "rw" => (libc::MS_RDONLY, true),
        "nosuid" => (libc::MS_NOSUID, false),
        "suid" => (libc::MS_NOSUID, true),
        "nodev" => (libc::MS_NODEV, false),
        "dev" => (libc::MS_NODEV, true),
        "noexec" => (libc::MS_NOEXEC, false),
        "exec" => (libc::MS_NOEXEC, true),
        "sync" => (libc::MS_SYNCHRONOUS, false),
        "async" => (libc::MS_SYNCHRONOUS, true),
        "dirsync" => (libc::MS_DIRSYNC, false),
        "mand" => (libc::MS_MANDLOCK, false),
        "nomand" => (libc::MS_MANDLOCK, true),
        "noatime" => (libc::MS_NOATIME, false),
        "atime" => (libc::MS_NOATIME, true),
        "nodiratime" => (libc::MS_NODIRATIME, false),
        "diratime" => (libc::MS_NODIRATIME, true),
        "relatime" => (libc::MS_RELATIME, false),
        "norelatime" => (libc::MS_RELATIME, true),
        "strictatime" => (libc::MS_STRICTATIME, false),
        "nostrictatime" => (libc::MS_STRICTATIME, true),
        "silent" => (libc::MS_SILENT, false),
        "loud" => (libc::MS_SILENT, true),
        "iversion" => (libc::MS_I_VERSION, false),
        "noiversion" => (libc::MS_I_VERSION, true),
        "lazytime" => (MS_LAZYTIME, false),
        "nolazytime" => (MS_LAZYTIME, true),
        "nosymfollow" => (MS_NOSYMFOLLOW, false),
        "symfollow" => (MS_NOSYMFOLLOW, true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountOptions {
        MountOptions::parse(options.iter().copied()).unwrap()
    }

    #[test]
    fn words_for_the_file_system_keep_their_order_and_flags_leave_it() {
        let options = parse(&["nosuid", "strictatime", "mode=755", "size=65536k"]);
        assert_eq!(options.data, "mode=755,size=65536k");
        assert_eq!(options.flags, libc::MS_NOSUID | libc::MS_STRICTATIME);
        assert_eq!(options.bind, None);
    }

    #[test]
    fn the_last_word_about_a_flag_wins() {
        assert_eq!(parse(&["ro", "rw"]).flags, 0);
        assert_eq!(
            parse(&["ro", "rw"]).attr,
            MountAttr {
                attr_clr: ATTR_RDONLY,
                ..MountAttr::default()
            }
        );
        assert_eq!(
            parse(&["rw", "ro"]).attr,
            MountAttr {
                attr_set: ATTR_RDONLY,
                ..MountAttr::default()
            }
        );
    }

    #[test]
    fn a_read_only_bind_mount_changes_the_mount_and_not_the_file_system() {
        let options = parse(&["rbind", "rprivate", "ro", "nosuid"]);
        assert_eq!(options.bind, Some(Recursive::Yes));
        assert_eq!(options.attr.attr_set, ATTR_RDONLY | ATTR_NOSUID);
        assert_eq!(options.attr_recursive, MountAttr::default());
        assert_eq!(options.propagation, vec![libc::MS_PRIVATE | libc::MS_REC]);
        assert_eq!(options.data, "");
    }

    #[test]
    fn rro_reaches_the_mounts_beneath() {
        assert_eq!(parse(&["rbind", "rro"]).attr_recursive.attr_set, ATTR_RDONLY);
        assert_eq!(parse(&["rbind", "rro"]).attr.attr_set, 0);
    }

    #[test]
    fn bind_after_rbind_stays_recursive() {
        assert_eq!(parse(&["rbind", "bind"]).bind, Some(Recursive::Yes));
        assert_eq!(parse(&["bind"]).bind, Some(Recursive::No));
    }

    #[test]
    fn relatime_clears_what_noatime_set() {
        let attr = parse(&["noatime", "relatime"]).attr;
        assert_eq!((attr.attr_set, attr.attr_clr), (0, ATTR_ATIME));
        let attr = parse(&["relatime", "noatime"]).attr;
        assert_eq!((attr.attr_set, attr.attr_clr), (ATTR_NOATIME, ATTR_ATIME));
    }

    #[test]
    fn what_cannot_be_carried_out_is_refused_by_name() {
        let refused = MountOptions::parse(["idmap"]).unwrap_err();
        assert_eq!(refused.to_string(), "mount option \"idmap\" is not supported");
    }

    #[test]
    fn a_bidirectional_mount_is_shared() {
        assert!(parse(&["rbind", "rshared"]).shared());
        assert!(!parse(&["rbind", "rslave"]).shared());
    }
}
