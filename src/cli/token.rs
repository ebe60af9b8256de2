//! `podd token create | list | revoke`: who may come in with a token.
//!
//! Works on `ROOT/tokens` itself, whether an agent runs or not; a running one knows at once.

use std::io::Write;
use std::path::Path;

use clap::{ArgGroup, Subcommand};

use crate::api::auth::Identity;
use crate::api::auth::tokens::{Entry, TokenFile};

/// What can be done with tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenSubcommand {
    /// Make a token and print it: it is shown this once, only its hash is stored
    Create {
        /// Who the token is for
        #[arg(long, value_name = "NAME")]
        user: String,
        /// A group the user is in; may be given several times. system:masters may do everything, podd:viewers may read
        /// all but Secrets
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
        /// What tells this user from another one of that name
        #[arg(long, value_name = "UID", default_value = "")]
        uid: String,
    },
    /// List whose tokens there are, never a token itself
    List,
    /// Remove a token, or all tokens of a user; what is being streamed goes on to its end
    #[command(group(ArgGroup::new("which").required(true)))]
    Revoke {
        /// The token's ID, or its beginning, as `podd token list` shows it
        #[arg(group = "which")]
        id: Option<String>,
        /// The user who shall have no token any more
        #[arg(long, value_name = "NAME", group = "which")]
        user: Option<String>,
    },
}

/// Carry out a command on the tokens of a state directory, and say what came of it.
pub fn run(root: &Path, command: TokenSubcommand, out: &mut impl Write) -> anyhow::Result<()> {
    let file = TokenFile::open(root)?;
    match command {
        TokenSubcommand::Create { user, groups, uid } => {
            let identity = Identity {
                user,
                uid,
                groups,
                ..Identity::default()
            };
            writeln!(out, "{}", file.create(&identity)?)?;
        }
        TokenSubcommand::List => table(&file.entries()?, out)?,
        TokenSubcommand::Revoke { id, user } => {
            if let Some(id) = id {
                let entry = file.revoke(&id)?;
                writeln!(out, "revoked a token of {}", entry.identity.user)?;
            }
            if let Some(user) = user {
                let count = file.revoke_all(&user)?;
                let tokens = if count == 1 { "token" } else { "tokens" };
                writeln!(out, "revoked {count} {tokens} of {user}")?;
            }
        }
    }
    Ok(())
}

fn table(entries: &[Entry], out: &mut impl Write) -> std::io::Result<()> {
    let mut rows = vec![["ID", "USER", "UID", "GROUPS"].map(str::to_owned)];
    for entry in entries {
        let Identity {
            user,
            uid,
            groups,
            extra: _,
        } = &entry.identity;
        let id = entry.id().unwrap_or_else(|| format!("<plain, line {}>", entry.line));
        let or_none = |text: &str| {
            if text.is_empty() {
                "<none>".to_owned()
            } else {
                text.to_owned()
            }
        };
        rows.push([id, user.clone(), or_none(uid), or_none(&groups.join(","))]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (a, b, c) = (width(0), width(1), width(2));
    for [id, user, uid, groups] in &rows {
        writeln!(out, "{id:<a$}   {user:<b$}   {uid:<c$}   {groups}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_in(root: &Path, command: TokenSubcommand) -> Result<String, String> {
        let mut out = Vec::new();
        run(root, command, &mut out).map_err(|e| format!("{e:#}"))?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn create(user: &str, groups: &[&str]) -> TokenSubcommand {
        TokenSubcommand::Create {
            user: user.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            uid: String::new(),
        }
    }

    fn revoke(id: Option<&str>, user: Option<&str>) -> TokenSubcommand {
        TokenSubcommand::Revoke {
            id: id.map(str::to_owned),
            user: user.map(str::to_owned),
        }
    }

    #[test]
    fn tokens_are_made_listed_and_revoked() {
        let root = tempfile::tempdir().unwrap();
        let token = run_in(root.path(), create("jane", &["podd:viewers", "b"])).unwrap();
        assert_eq!(token.lines().count(), 1);
        run_in(root.path(), create("ann", &[])).unwrap();
        let path = root.path().join("tokens");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("plain,bob,1\n");
        std::fs::write(&path, text).unwrap();
        let list = run_in(root.path(), TokenSubcommand::List).unwrap();
        assert!(!list.contains(token.trim()) && !list.contains("plain,bob"), "{list}");
        let rows: Vec<Vec<&str>> = list.lines().map(|l| l.split("   ").map(str::trim).collect()).collect();
        let cell = |row: usize| {
            rows[row]
                .iter()
                .filter(|c| !c.is_empty())
                .skip(1)
                .copied()
                .collect::<Vec<_>>()
        };
        assert_eq!(cell(0), ["USER", "UID", "GROUPS"]);
        assert_eq!(cell(1), ["jane", "<none>", "podd:viewers,b"]);
        assert_eq!(cell(2), ["ann", "<none>", "<none>"]);
        assert_eq!(cell(3), ["bob", "1", "<none>"]);
        assert_eq!(rows[3][0], "<plain, line 3>");
        let id = rows[1][0];
        assert_eq!(
            run_in(root.path(), revoke(Some(id), None)).unwrap(),
            "revoked a token of jane\n"
        );
        assert_eq!(
            run_in(root.path(), revoke(None, Some("bob"))).unwrap(),
            "revoked 1 token of bob\n"
        );
        assert_eq!(run_in(root.path(), TokenSubcommand::List).unwrap().lines().count(), 2);
        assert_eq!(
            run_in(root.path(), revoke(Some(id), None)),
            Err(format!("no token begins with \"{id}\""))
        );
        let nowhere = run_in(&root.path().join("nowhere"), TokenSubcommand::List).unwrap_err();
        assert!(nowhere.contains("nowhere/tokens.lock: No such file"), "{nowhere}");
    }
}
