//! `ROOT/tokens`: who has which token, in Kubernetes' static token format, one a line: `token,user,uid,"group1,group2"`.
//!
//! Goes in: the file, and a token that a request shows. Comes out: whose it is. The file is looked at whenever a token is
//! shown, and read anew if it changed, so that a token is good or bad the moment its line is written or removed.
//!
//! `podd token create` writes the first column as `sha256:<hex>`: such a token has 256 random bits, so its plain hash
//! tells nothing. A token that a person wrote as it is counts as well, with a warning.
//!
//! **Invariants:** no token is kept in memory or logged, only its hash. A line that cannot be read is named and skipped.
//! A file that somebody else could have written is not used at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::identity::Identity;
use super::private;
use crate::api::answer::hex;

/// The name of the file in the state directory.
pub const FILE: &str = "tokens";
/// What marks the first column as the hash of a token.
const HASHED: &str = "sha256:";
/// What tokens made by podd begin with, so that people and scanners know one when they see it.
const PREFIX: &str = "podd_";
/// Bytes of the largest file that is read.
const FILE_LIMIT: u64 = 1024 * 1024;
/// Lines that count at most: each is compared with each token shown.
const LINES: usize = 4096;
/// Lines named in the log at most, of each sort.
const NAMED: usize = 20;
/// Bytes of a token that is looked at.
const TOKEN_LIMIT: usize = 4096;

/// The file of tokens cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read or write {path}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is larger than {FILE_LIMIT} bytes")]
    TooLarge { path: PathBuf },
    #[error("{path} may be written by others than its owner: see who did, then chmod 600 it")]
    Exposed { path: PathBuf },
    #[error("{path} belongs to user {owner}: it must belong to root, or to whoever runs podd")]
    Foreign { path: PathBuf, owner: u32 },
    #[error("{path} is no regular file")]
    NoFile { path: PathBuf },
    #[error("{what} must not be empty, nor have line breaks or other control characters")]
    Unwritable { what: &'static str },
    #[error("the group {group:?} has a comma, which separates groups in the file")]
    GroupWithComma { group: String },
    #[error("{path} has {LINES} tokens, which is as many as it may have")]
    Full { path: PathBuf },
    #[error("no token begins with {id:?}")]
    NoSuchToken { id: String },
    #[error("{count} tokens begin with {id:?}: give more of it")]
    Ambiguous { id: String, count: usize },
    #[error("{user:?} has no token")]
    NoSuchUser { user: String },
}

type Hash = [u8; 32];

/// One good line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    hash: Hash,
    /// From 1.
    pub line: usize,
    /// The token itself stands in the file.
    pub plain: bool,
    pub identity: Identity,
}

impl Entry {
    /// What `podd token revoke` knows the token by. Of a plain one nothing is shown: it may be easy to guess.
    pub fn id(&self) -> Option<String> {
        (!self.plain).then(|| hex(&self.hash[..6]))
    }
}

/// What is wrong with a line; never the line itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Complaint {
    pub(crate) line: usize,
    pub(crate) what: &'static str,
}

/// Whose tokens are whose.
#[derive(Debug)]
pub(crate) struct Tokens {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    entries: Arc<[Entry]>,
}

/// What changes when the file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Absent,
    Unreadable(io::ErrorKind),
    File {
        device: u64,
        inode: u64,
        size: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(metadata) => Self::File {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Absent,
            Err(error) => Self::Unreadable(error.kind()),
        }
    }
}

impl Tokens {
    /// The tokens of a state directory. What is wrong with the file is logged, now and whenever it has changed.
    pub(crate) fn open(root: &Path) -> Self {
        let tokens = Self {
            path: root.join(FILE),
            known: Mutex::new(Known {
                stamp: Stamp::Absent,
                entries: Arc::default(),
            }),
        };
        tokens.entries();
        tokens
    }

    /// Whose token this is. However many there are, and whichever it is, as much is compared.
    pub(crate) fn identify(&self, token: &str) -> Option<Identity> {
        if token.len() > TOKEN_LIMIT {
            return None;
        }
        let hash: Hash = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for entry in self.entries().iter() {
            if bool::from(entry.hash.ct_eq(&hash)) {
                found = Some(entry.identity.clone());
            }
        }
        found
    }

    /// What the file says now.
    fn entries(&self) -> Arc<[Entry]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Before reading: what is written meanwhile changes the stamp, and is read the next time.
        let stamp = Stamp::of(&self.path);
        if stamp != known.stamp {
            known.stamp = stamp;
            known.entries = self.load().into();
        }
        Arc::clone(&known.entries)
    }

    /// Read the file, and say in the log what is wrong with it. When in doubt nobody has a token.
    fn load(&self) -> Vec<Entry> {
        let path = self.path.display();
        let text = match read(&self.path) {
            Ok(Some((text, mode))) => {
                if mode & 0o077 != 0 {
                    tracing::warn!(%path, mode = format!("{mode:o}"), "others may read the tokens: chmod 600 this file");
                }
                text
            }
            Ok(None) => return Vec::new(),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, source, "no token is taken");
                return Vec::new();
            }
        };
        let (entries, complaints) = parse(&text);
        for Complaint { line, what } in complaints.iter().take(NAMED) {
            tracing::warn!(%path, line, what, "a line of the tokens is skipped");
        }
        for entry in entries.iter().filter(|entry| entry.plain).take(NAMED) {
            tracing::warn!(%path, line = entry.line, user = entry.identity.user,
                "this token is in the file as it is: `podd token create` makes one of which only a hash is stored");
        }
        let plain = entries.iter().filter(|entry| entry.plain).count();
        tracing::info!(%path, tokens = entries.len(), plain, skipped = complaints.len(), "tokens are read");
        entries
    }
}

/// The file's content and mode; `None` when there is none.
fn read(path: &Path) -> Result<Option<(Vec<u8>, u32)>, TokenError> {
    let file_error = |source| TokenError::File {
        path: path.to_owned(),
        source,
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file_error(error)),
    };
    let metadata = file.metadata().map_err(file_error)?;
    let path = || path.to_owned();
    if !metadata.is_file() {
        return Err(TokenError::NoFile { path: path() });
    }
    let (mode, owner) = (metadata.permissions().mode() & 0o777, metadata.uid());
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(TokenError::Foreign { path: path(), owner });
    }
    if mode & 0o022 != 0 {
        return Err(TokenError::Exposed { path: path() });
    }
    let mut text = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut text).map_err(file_error)?;
    if u64::try_from(text.len()).is_ok_and(|size| size > FILE_LIMIT) {
        return Err(TokenError::TooLarge { path: path() });
    }
    Ok(Some((text, mode)))
}

/// The lines that count, and what is wrong with those that do not. Of a token given twice the last line counts, as in
/// Kubernetes.
pub(crate) fn parse(text: &[u8]) -> (Vec<Entry>, Vec<Complaint>) {
    let mut entries: Vec<Entry> = Vec::new();
    let mut complaints = Vec::new();
    for (line, bytes) in (1..).zip(text.split_inclusive(|b| *b == b'\n')) {
        let mut complain = |what| complaints.push(Complaint { line, what });
        let entry = match entry(bytes, line) {
            Ok(Some(entry)) => entry,
            Ok(None) => continue,
            Err(what) => {
                complain(what);
                continue;
            }
        };
        if let Some(before) = entries.iter_mut().find(|e| e.hash == entry.hash) {
            complain("the same token stands in an earlier line, which counts no more");
            *before = entry;
        } else if entries.len() < LINES {
            entries.push(entry);
        } else {
            complain("there are too many tokens");
        }
    }
    (entries, complaints)
}

/// What a line says, with or without its end; nothing if it is empty.
fn entry(line: &[u8], number: usize) -> Result<Option<Entry>, &'static str> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let columns = columns(text)?;
    let (token, user, uid, groups) = match columns.as_slice() {
        [token, user, uid] => (token, user, uid, ""),
        [token, user, uid, groups] => (token, user, uid, groups.as_str()),
        [] | [_] | [_, _] => return Err("it has fewer than three columns: token, user, uid"),
        _ => return Err("it has more than four columns: several groups stand in quotes, \"a,b\""),
    };
    if token.is_empty() {
        return Err("the token is empty");
    }
    if user.is_empty() {
        return Err("the user is empty");
    }
    if columns.iter().any(|c| c.contains(char::is_control)) {
        return Err("it has control characters");
    }
    let (hash, plain) = match token.strip_prefix(HASHED) {
        Some(digits) => (unhex(digits).ok_or("after sha256: come 64 hexadecimal digits")?, false),
        None if token.contains(char::is_whitespace) => return Err("the token has white space, so nobody can send it"),
        None => (Sha256::digest(token.as_bytes()).into(), true),
    };
    let groups = groups.split(',').filter(|g| !g.is_empty()).map(str::to_owned);
    Ok(Some(Entry {
        hash,
        line: number,
        plain,
        identity: Identity {
            user: user.clone(),
            uid: uid.clone(),
            groups: groups.collect(),
            ..Identity::default()
        },
    }))
}

/// The columns of a line of CSV (RFC 4180). A quoted column ends on its line.
fn columns(line: &str) -> Result<Vec<String>, &'static str> {
    let mut columns = Vec::new();
    let mut rest = line;
    loop {
        let (column, after) = if let Some(mut quoted) = rest.strip_prefix('"') {
            let mut column = String::new();
            loop {
                let (text, after) = quoted.split_once('"').ok_or("a quote is not closed")?;
                column.push_str(text);
                // Two quotes in a row are one of the text.
                let Some(more) = after.strip_prefix('"') else {
                    break (column, after);
                };
                column.push('"');
                quoted = more;
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err("a quote stands in the middle of a column");
            }
            (rest[..end].to_owned(), &rest[end..])
        };
        columns.push(column);
        if after.is_empty() {
            return Ok(columns);
        }
        rest = after.strip_prefix(',').ok_or("after a quoted column comes no comma")?;
    }
}

fn unhex(digits: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if digits.len() != hash.len() * 2 || !digits.is_ascii() {
        return None;
    }
    for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
    }
    Some(hash)
}

/// The file as `podd token` changes it: one command at a time, each line that is not meant left as it is.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    /// Held as long as this lives.
    _lock: File,
}

impl TokenFile {
    /// Take the file of a state directory for oneself; waits while another command has it.
    pub fn open(root: &Path) -> Result<Self, TokenError> {
        let lock_path = root.join("tokens.lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|source| TokenError::File {
                path: lock_path,
                source,
            })?;
        let path = root.join(FILE);
        // A link stays a link.
        let path = fs::canonicalize(&path).unwrap_or(path);
        Ok(Self { path, _lock: lock })
    }

    /// Every good line.
    pub fn entries(&self) -> Result<Vec<Entry>, TokenError> {
        Ok(parse(&self.text()?).0)
    }

    /// Make a token for this identity, and give it: it is nowhere else.
    pub fn create(&self, identity: &Identity) -> Result<String, TokenError> {
        let Identity { user, uid, groups, .. } = identity;
        let controls = |text: &str| text.contains(char::is_control);
        if user.is_empty() || controls(user) {
            return Err(TokenError::Unwritable { what: "the user" });
        }
        if controls(uid) {
            return Err(TokenError::Unwritable { what: "the uid" });
        }
        for group in groups {
            if group.is_empty() || controls(group) {
                return Err(TokenError::Unwritable { what: "a group" });
            }
            if group.contains(',') {
                return Err(TokenError::GroupWithComma { group: group.clone() });
            }
        }
        let mut text = self.text()?;
        if parse(&text).0.len() >= LINES {
            return Err(TokenError::Full {
                path: self.path.clone(),
            });
        }
        let token = new_token().map_err(|source| TokenError::File {
            path: PathBuf::from(RANDOM),
            source,
        })?;
        if !text.is_empty() && !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(line(&Sha256::digest(token.as_bytes()).into(), identity).as_bytes());
        self.write(&text)?;
        Ok(token)
    }

    /// Remove the one token whose [`Entry::id`] (or whole hash) begins so.
    pub fn revoke(&self, id: &str) -> Result<Entry, TokenError> {
        let wanted = id.strip_prefix(HASHED).unwrap_or(id).to_ascii_lowercase();
        let entries = self.entries()?;
        let hits: Vec<&Entry> = entries
            .iter()
            .filter(|e| !e.plain && !wanted.is_empty() && hex(&e.hash).starts_with(&wanted))
            .collect();
        match hits.as_slice() {
            [] => Err(TokenError::NoSuchToken { id: id.to_owned() }),
            [one] => {
                self.remove(|entry| entry.hash == one.hash)?;
                Ok((*one).clone())
            }
            several => Err(TokenError::Ambiguous {
                id: id.to_owned(),
                count: several.len(),
            }),
        }
    }

    /// Remove every token of a user; gives how many.
    pub fn revoke_all(&self, user: &str) -> Result<usize, TokenError> {
        match self.remove(|entry| entry.identity.user == user)? {
            0 => Err(TokenError::NoSuchUser { user: user.to_owned() }),
            count => Ok(count),
        }
    }

    /// Remove the lines whose entries are meant, an earlier line of the same token with them; gives how many.
    fn remove(&self, meant: impl Fn(&Entry) -> bool) -> Result<usize, TokenError> {
        let text = self.text()?;
        let mut removed = 0;
        let mut kept = Vec::with_capacity(text.len());
        for (number, line) in (1..).zip(text.split_inclusive(|b| *b == b'\n')) {
            if entry(line, number).is_ok_and(|entry| entry.is_some_and(|entry| meant(&entry))) {
                removed += 1;
            } else {
                kept.extend_from_slice(line);
            }
        }
        if removed > 0 {
            self.write(&kept)?;
        }
        Ok(removed)
    }

    fn text(&self) -> Result<Vec<u8>, TokenError> {
        Ok(read(&self.path)?.map(|(text, _)| text).unwrap_or_default())
    }

    fn write(&self, text: &[u8]) -> Result<(), TokenError> {
        private::write(&self.path, text).map_err(|source| TokenError::File {
            path: self.path.clone(),
            source,
        })
    }
}

/// The line of a token, with its end.
fn line(hash: &Hash, identity: &Identity) -> String {
    let Identity {
        user,
        uid,
        groups,
        extra: _,
    } = identity;
    let mut columns = vec![
        format!("{HASHED}{}", hex(hash)),
        quoted(user, false),
        quoted(uid, false),
    ];
    if !groups.is_empty() {
        columns.push(quoted(&groups.join(","), true));
    }
    format!("{}\n", columns.join(","))
}

/// A column as it is written: in quotes where it must be.
fn quoted(column: &str, always: bool) -> String {
    if !always && !column.contains(['"', ',']) {
        return column.to_owned();
    }
    format!("\"{}\"", column.replace('"', "\"\""))
}

/// Where randomness comes from.
const RANDOM: &str = "/dev/urandom";

fn new_token() -> io::Result<String> {
    let mut bytes = [0; 32];
    File::open(RANDOM)?.read_exact(&mut bytes)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests;
