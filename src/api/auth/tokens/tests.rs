use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn who(user: &str, uid: &str, groups: &[&str]) -> Identity {
    Identity {
        user: user.to_owned(),
        uid: uid.to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..Identity::default()
    }
}

/// A state directory with this file of tokens in it.
fn root(text: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), text);
    root
}

fn write(root: &Path, text: &str) {
    private::write(&root.join(FILE), text.as_bytes()).unwrap();
}

#[test]
fn lines_are_read_as_kubernetes_reads_them() {
    let hash = hex(&Sha256::digest(b"secret"));
    for (line, identity, plain) in [
        ("t,jane,1", who("jane", "1", &[]), true),
        ("t,jane,1,viewers", who("jane", "1", &["viewers"]), true),
        ("t,jane,1,\"a,b\"\r", who("jane", "1", &["a", "b"]), true),
        (
            "\"t\",\"doe, jane\",\"the \"\"one\"\"\",",
            who("doe, jane", "the \"one\"", &[]),
            true,
        ),
        ("t,jane,", who("jane", "", &[]), true),
        (&format!("sha256:{hash},jane,1"), who("jane", "1", &[]), false),
        (
            &format!("sha256:{},jane,1", hash.to_uppercase()),
            who("jane", "1", &[]),
            false,
        ),
    ] {
        let (entries, complaints) = parse(line.as_bytes());
        assert_eq!(complaints, [], "{line}");
        assert_eq!((&entries[0].identity, entries[0].plain), (&identity, plain), "{line}");
    }
}

#[test]
fn a_broken_line_is_named_and_the_others_count() {
    for (line, what) in [
        ("token,jane", "it has fewer than three columns: token, user, uid"),
        ("# a remark", "it has fewer than three columns: token, user, uid"),
        (
            "token,jane,1,a,b",
            "it has more than four columns: several groups stand in quotes, \"a,b\"",
        ),
        (",jane,1", "the token is empty"),
        ("token,,1", "the user is empty"),
        ("token,ja\u{7}ne,1", "it has control characters"),
        ("to ken,jane,1", "the token has white space, so nobody can send it"),
        ("token,\"jane,1", "a quote is not closed"),
        ("token,\"ja\"ne,1", "after a quoted column comes no comma"),
        ("token,ja\"ne,1", "a quote stands in the middle of a column"),
        ("sha256:abc,jane,1", "after sha256: come 64 hexadecimal digits"),
        (
            "good,x,1",
            "the same token stands in an earlier line, which counts no more",
        ),
    ] {
        let text = format!("good,bob,0\n\n{line}\nlast,ann,2");
        let (entries, complaints) = parse(text.as_bytes());
        assert_eq!(complaints, [Complaint { line: 3, what }], "{line}");
        assert_eq!(entries.len(), 2, "{line}");
        assert_eq!(entries[1].identity.user, "ann", "{line}");
    }
    let (entries, complaints) = parse(b"a\xff,jane,1\nb,ann,2");
    assert_eq!((entries.len(), complaints[0].what), (1, "it is not UTF-8"));
}

#[test]
fn more_tokens_than_are_compared_do_not_count() {
    let lines: Vec<String> = (0..=LINES).map(|n| format!("t{n},u,\n")).collect();
    let text = lines.concat();
    let (entries, complaints) = parse(text.as_bytes());
    assert_eq!((entries.len(), complaints.len()), (LINES, 1));
    assert_eq!(complaints[0].line, LINES + 1);
}

#[test]
fn a_token_is_good_the_moment_its_line_is_there_and_bad_when_it_is_gone() {
    let root = tempfile::tempdir().unwrap();
    let tokens = Tokens::open(root.path());
    assert_eq!(tokens.identify("plain"), None);
    write(root.path(), "plain,jane,7,\"a,b\"\n");
    assert_eq!(tokens.identify("plain"), Some(who("jane", "7", &["a", "b"])));
    assert_eq!(tokens.identify("plai"), None);
    write(root.path(), "other,jane,7\n");
    assert_eq!(tokens.identify("plain"), None);
    std::fs::remove_file(root.path().join(FILE)).unwrap();
    assert_eq!(tokens.identify("other"), None);
}

#[test]
fn the_hash_of_a_token_is_no_token() {
    let hashed = format!("sha256:{}", hex(&Sha256::digest(b"secret")));
    let root = root(&format!("{hashed},jane,1\n"));
    let tokens = Tokens::open(root.path());
    assert_eq!(tokens.identify("secret"), Some(who("jane", "1", &[])));
    assert_eq!(tokens.identify(&hashed), None);
    assert_eq!(tokens.identify(&hashed["sha256:".len()..]), None);
    assert_eq!(tokens.identify(""), None);
}

#[test]
fn a_file_that_others_may_write_gives_nobody_a_token() {
    let root = root("plain,jane,1\n");
    let path = root.path().join(FILE);
    let tokens = Tokens::open(root.path());
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    for (bits, believed) in [
        (0o600, true),
        (0o644, true),
        (0o620, false),
        (0o602, false),
        (0o600, true),
    ] {
        mode(bits);
        assert_eq!(tokens.identify("plain").is_some(), believed, "{bits:o}");
    }
    assert!(matches!(
        {
            mode(0o666);
            TokenFile::open(root.path()).unwrap().create(&who("x", "", &[]))
        },
        Err(TokenError::Exposed { .. })
    ));
}

#[test]
fn what_is_no_file_or_too_large_gives_nobody_a_token() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join(FILE)).unwrap();
    assert_eq!(Tokens::open(root.path()).identify("x"), None);
    std::fs::remove_dir(root.path().join(FILE)).unwrap();
    let mut text = "x,jane,1\n".to_owned();
    text.push_str(&"#".repeat(usize::try_from(FILE_LIMIT).unwrap()));
    write(root.path(), &text);
    assert_eq!(Tokens::open(root.path()).identify("x"), None);
    assert!(matches!(
        TokenFile::open(root.path()).unwrap().entries(),
        Err(TokenError::TooLarge { .. })
    ));
}

#[test]
fn a_token_that_was_made_works_and_only_its_hash_is_stored() {
    let root = root("plain,bob,1");
    let (tokens, file) = (Tokens::open(root.path()), TokenFile::open(root.path()).unwrap());
    let jane = who("doe, \"jane\"", "7", &["podd:viewers", "b"]);
    let token = file.create(&jane).unwrap();
    let ann = file.create(&who("ann", "", &[])).unwrap();
    assert_ne!(token, ann);
    assert!(token.starts_with("podd_") && token.len() == 48, "{token}");
    assert_eq!(tokens.identify(&token), Some(jane));
    assert_eq!(tokens.identify(&ann), Some(who("ann", "", &[])));
    assert_eq!(tokens.identify("plain"), Some(who("bob", "1", &[])));
    let path = root.path().join(FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains(&token["podd_".len()..]) && !text.contains(&ann));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_revoked_token_is_bad_at_once_and_other_lines_stay_as_they_are() {
    let root = root("# a remark\r\nplain,bob,1\n\nplain2,jane,1\n");
    let (tokens, file) = (Tokens::open(root.path()), TokenFile::open(root.path()).unwrap());
    let (one, two) = (
        file.create(&who("jane", "", &[])).unwrap(),
        file.create(&who("ann", "", &[])).unwrap(),
    );
    let id = |user: &str| {
        let entries = file.entries().unwrap();
        let entry = entries.iter().rfind(|e| e.identity.user == user).unwrap();
        entry.id()
    };
    assert_eq!(id("bob"), None, "of a token that may be easy to guess nothing is shown");
    assert_eq!(file.revoke(&id("ann").unwrap()).unwrap().identity.user, "ann");
    assert_eq!(tokens.identify(&two), None);
    assert!(tokens.identify(&one).is_some());
    assert_eq!(file.revoke_all("jane").unwrap(), 2);
    assert_eq!((tokens.identify(&one), tokens.identify("plain2")), (None, None));
    let left = std::fs::read_to_string(root.path().join(FILE)).unwrap();
    assert_eq!(left, "# a remark\r\nplain,bob,1\n\n");
    assert!(matches!(file.revoke_all("jane"), Err(TokenError::NoSuchUser { .. })));
    assert!(matches!(file.revoke("abc"), Err(TokenError::NoSuchToken { .. })));
    assert!(matches!(file.revoke(""), Err(TokenError::NoSuchToken { .. })));
    let plain = hex(&Sha256::digest(b"plain"));
    assert!(matches!(file.revoke(&plain), Err(TokenError::NoSuchToken { .. })));
}

#[test]
fn an_id_that_means_several_tokens_revokes_none() {
    let root = tempfile::tempdir().unwrap();
    let file = TokenFile::open(root.path()).unwrap();
    for _ in 0..20 {
        file.create(&who("jane", "", &[])).unwrap();
    }
    // Of twenty hashes, two begin alike.
    let mut firsts: Vec<String> = file
        .entries()
        .unwrap()
        .iter()
        .map(|e| e.id().unwrap()[..1].to_owned())
        .collect();
    firsts.sort();
    let shared = firsts.windows(2).find(|w| w[0] == w[1]).unwrap()[0].clone();
    assert!(matches!(file.revoke(&shared), Err(TokenError::Ambiguous { .. })));
    assert_eq!(file.entries().unwrap().len(), 20);
}

#[test]
fn what_cannot_be_written_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let file = TokenFile::open(root.path()).unwrap();
    for (identity, message) in [
        (who("", "", &[]), "the user must not be empty"),
        (who("a\nb", "", &[]), "the user must not be empty"),
        (who("a", "x\ry", &[]), "the uid must not be empty"),
        (who("a", "", &[""]), "a group must not be empty"),
        (who("a", "", &["b,c"]), "the group \"b,c\" has a comma"),
    ] {
        let error = file.create(&identity).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    assert!(!root.path().join(FILE).exists());
}

#[test]
fn commands_wait_for_each_other() {
    let root = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let root = root.path();
            scope.spawn(move || {
                let file = TokenFile::open(root).unwrap();
                file.create(&who(&format!("user-{n}"), "", &[])).unwrap();
            });
        }
    });
    assert_eq!(TokenFile::open(root.path()).unwrap().entries().unwrap().len(), 8);
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_again(
        hash in any::<Hash>(),
        user in "[^\\pC]{1,12}",
        uid in "[^\\pC]{0,12}",
        groups in prop::collection::vec("[^\\pC,]{1,8}", 0..4),
    ) {
        let identity = Identity { user, uid, groups, ..Identity::default() };
        let (entries, complaints) = parse(line(&hash, &identity).as_bytes());
        prop_assert_eq!(complaints, vec![]);
        prop_assert_eq!(&entries[0].identity, &identity);
        prop_assert_eq!((entries[0].hash, entries[0].plain), (hash, false));
    }

    #[test]
    fn whatever_stands_in_the_file_can_be_read(text in prop::collection::vec(prop::sample::select(b"ab,\"\n\r :\xff".to_vec()), 0..80)) {
        let (entries, complaints) = parse(&text);
        let lines = text.split(|b| *b == b'\n').filter(|l| !l.is_empty() && *l != b"\r").count();
        // Each line counts, or is named; a token given twice is both at once.
        prop_assert!(entries.len() <= lines && entries.len() + complaints.len() == lines);
    }
}
