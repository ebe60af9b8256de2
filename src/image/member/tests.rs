use proptest::prelude::*;
use tar::EntryType;

use super::super::tape::{Bytes, Entry, Tape};
use super::*;

fn members(bytes: Vec<u8>) -> Members<Bytes> {
    Members::new(Bytes::new(bytes))
}

fn one(bytes: Vec<u8>) -> Result<Member, TarError> {
    members(bytes).next().map(|member| member.expect("there is one"))
}

/// Everything, with its data.
fn all(bytes: Vec<u8>) -> Result<Vec<(Member, Vec<u8>)>, TarError> {
    let mut members = members(bytes);
    let mut all = Vec::new();
    while let Some(member) = members.next()? {
        let mut data = Vec::new();
        members.read_to_end(&mut data)?;
        all.push((member, data));
    }
    Ok(all)
}

#[test]
fn members_come_with_their_data() {
    let tape = Tape::new()
        .dir("a/")
        .file("a/b", &[7; 700])
        .file("a/c", b"")
        .symlink("a/l", "b")
        .hard_link("h", "a/b");
    let all = all(tape.char_device("null", (1, 3)).end()).unwrap();
    let kinds: Vec<_> = all.iter().map(|(member, data)| (member.kind, data.len())).collect();
    let device = Kind::CharDevice { major: 1, minor: 3 };
    let want = [
        Kind::Directory,
        Kind::File,
        Kind::File,
        Kind::Symlink,
        Kind::HardLink,
        device,
    ];
    assert_eq!(kinds, want.into_iter().zip([0, 700, 0, 0, 0, 0]).collect::<Vec<_>>());
    assert_eq!(all[1].1, [7; 700]);
    assert_eq!(all[1].0.offset, 1024);
    assert_eq!((&all[3].0.link[..], &all[4].0.link[..]), (&b"b"[..], &b"a/b"[..]));
}

#[test]
fn data_that_is_not_read_is_passed_over() {
    let mut members = members(Tape::new().file("a", &[7; 1300]).file("b", b"x").end());
    members.next().unwrap();
    members.read_exact(&mut [0; 600]).unwrap();
    assert_eq!(members.next().unwrap().unwrap().path, b"b");
    assert!(members.next().unwrap().is_none());
    assert!(members.next().unwrap().is_none());
    assert!(members.end_was_marked());
}

#[test]
fn numbers_are_read_as_go_reads_them() {
    for (bytes, want) in [
        (&b"0000644\0"[..], Some(0o644)),
        (b"    644 ", Some(0o644)),
        (b"644 \0\0\0\0", Some(0o644)),
        (b"77777777777", Some(0o77_777_777_777)),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"        ", Some(0)),
        (b"64x\0", None),
        (b"-1", None),
        (b"+1", None),
        (b"8", None),
        (b"\x80\0\0\0\0\0\x01\0", Some(256)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
        (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
        (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
        (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
    ] {
        assert_eq!(numeric(bytes), want, "{bytes:x?}");
    }
    let mut header = Tape::header(
        &Entry {
            path: b"f",
            ..Entry::default()
        },
        0,
    );
    header.as_old_mut().uid = [0; 8];
    header.as_old_mut().mtime = [0xff; 12];
    header.set_cksum();
    let member = one(Tape::new().raw(header.as_bytes()).end()).unwrap();
    assert_eq!((member.uid, member.mtime), (0, (-1, 0)));
    header.as_old_mut().size = [0xff; 12];
    header.set_cksum();
    assert!(matches!(
        one(Tape::new().raw(header.as_bytes()).end()),
        Err(TarError::Field { field: "size", .. })
    ));
}

#[test]
fn extended_headers_win() {
    let long = "d/".repeat(150) + "file";
    let records: [(&str, &[u8]); 7] = [
        ("path", long.as_bytes()),
        ("uid", b"4000000"),
        ("gid", b"5000000"),
        ("mtime", b"-1.25"),
        ("size", b"3"),
        ("SCHILY.xattr.user.a", b"x\0y"),
        ("comment", b"of no matter"),
    ];
    let header = Tape::header(
        &Entry {
            path: b"short",
            ..Entry::default()
        },
        0,
    );
    let tape = Tape::new()
        .pax(&records)
        .raw(header.as_bytes())
        .raw(b"abc")
        .padded()
        .file("next", b"");
    let all = all(tape.end()).unwrap();
    let (member, data) = &all[0];
    assert_eq!(member.path, long.as_bytes());
    assert_eq!(
        (member.uid, member.gid, member.mtime),
        (4_000_000, 5_000_000, (-2, 750_000_000))
    );
    assert_eq!(member.xattrs, [(b"user.a".to_vec(), b"x\0y".to_vec())]);
    assert_eq!(data, b"abc");
    assert_eq!(
        (&all[1].0.path[..], all[1].0.uid),
        (&b"next"[..], 0),
        "it speaks of one member alone"
    );
}

#[test]
fn gnu_long_names_win_over_pax() {
    let long = vec![b'n'; 300];
    let mut with_nul = long.clone();
    with_nul.extend(b"\0rest");
    let tape = Tape::new()
        .pax(&[("path", b"pax"), ("linkpath", b"pax")])
        .special(EntryType::GNULongName, &with_nul);
    let member = one(tape.special(EntryType::GNULongLink, b"link\0").symlink("s", "t").end()).unwrap();
    assert_eq!((member.path, member.link), (long, b"link".to_vec()));
}

#[test]
fn empty_records_take_back() {
    let tape = Tape::new().pax(&[("path", b"x"), ("path", b""), ("size", b"9"), ("size", b"")]);
    let tape = tape.pax(&[("SCHILY.xattr.user.a", b"1"), ("SCHILY.xattr.user.a", b"")]);
    let member = one(tape.file("f", b"data").end()).unwrap();
    assert_eq!((&member.path[..], member.size, member.xattrs.len()), (&b"f"[..], 4, 0));
}

#[test]
fn what_has_no_data_has_none_whatever_it_says() {
    let header = Tape::header(
        &Entry {
            kind: EntryType::Directory,
            path: b"d",
            ..Entry::default()
        },
        512,
    );
    let all = all(Tape::new().raw(header.as_bytes()).file("f", b"x").end()).unwrap();
    assert_eq!((all[0].0.size, &all[1].0.path[..]), (0, &b"f"[..]));
    // A slash at the end of a file's name makes it a directory, too.
    assert_eq!(one(Tape::new().file("d/", b"").end()).unwrap().kind, Kind::Directory);
}

#[test]
fn labels_and_global_headers_are_passed_over() {
    let tape = Tape::new()
        .special(EntryType::XGlobalHeader, b"12 path=abc\n")
        .special(EntryType::new(b'V'), b"");
    assert_eq!(one(tape.file("f", b"").end()).unwrap().path, b"f");
}

#[test]
fn cut_off_archives_are_told() {
    let whole = Tape::new().pax(&[("path", b"name")]).file("f", &[1; 600]).end();
    let unended = whole.len() - 1024;
    for cut in 1..whole.len() - 1 {
        let result = all(whole[..cut].to_vec());
        if cut < unended {
            assert!(matches!(result, Err(TarError::Truncated)), "{cut}: {result:?}");
        } else if (cut - unended).is_multiple_of(512) {
            assert!(result.is_ok(), "{cut}: {result:?}");
        }
    }
    let mut unmarked = members(whole[..unended].to_vec());
    while unmarked.next().unwrap().is_some() {}
    assert!(!unmarked.end_was_marked());
}

#[test]
fn what_lies_behind_the_end_does_not_count() {
    let all = all(Tape::new().file("f", b"").raw(&[0; 1024]).file("evil", b"").end()).unwrap();
    assert_eq!(all.len(), 1);
}

#[test]
fn faulty_headers_are_refused() {
    let faulty = |tape: Tape| all(tape.file("f", b"x").end()).unwrap_err();
    let mut damaged = Tape::new().file("f", b"").end();
    damaged[0] ^= 1;
    assert!(matches!(all(damaged), Err(TarError::Checksum { offset: 0 })));
    assert!(matches!(all(vec![b'x'; 2000]), Err(TarError::Checksum { offset: 0 })));
    // One block of zeros, then something else.
    assert!(matches!(
        faulty(Tape::new().raw(&[0; 512])),
        TarError::Checksum { offset: 512 }
    ));
    for (key, value) in [
        ("size", "-1"),
        ("size", "99999999999999999999"),
        ("uid", "x"),
        ("mtime", "1.x"),
        ("mtime", "x"),
    ] {
        assert!(
            matches!(
                faulty(Tape::new().pax(&[(key, value.as_bytes())])),
                TarError::Extended { .. }
            ),
            "{key}={value}"
        );
    }
    for value in ["4294967295", "4294967296"] {
        assert!(matches!(
            faulty(Tape::new().pax(&[("uid", value.as_bytes())])),
            TarError::Field { field: "uid", .. }
        ));
    }
    assert!(matches!(
        faulty(Tape::new().pax(&[("size", b"9223372036854775808")])),
        TarError::Field { field: "size", .. }
    ));
    for records in [
        "5 a=b\n",
        "7 a=b\n",
        "6 ab\n\n",
        "x a=b\n",
        "0 a=b\n",
        "2 \n",
        "99999999999999999999999 a=b\n",
        " 6 a=b\n",
    ] {
        assert!(
            matches!(
                faulty(Tape::new().special(EntryType::XHeader, records.as_bytes())),
                TarError::Extended { .. }
            ),
            "{records:?}"
        );
    }
    assert!(matches!(
        faulty(Tape::new().pax(&[("path", b"a\0b")])),
        TarError::Name { .. }
    ));
    assert!(matches!(
        faulty(Tape::new().pax(&[("path", &[b'a'; 4097])])),
        TarError::Name { .. }
    ));
    assert!(matches!(
        faulty(Tape::new().special(EntryType::GNULongName, &[b'a'; 4097])),
        TarError::Name { .. }
    ));
    let global_between = Tape::new()
        .pax(&[("path", b"a")])
        .special(EntryType::XGlobalHeader, b"");
    assert!(matches!(faulty(global_between), TarError::Extended { .. }));
    assert!(matches!(
        all(Tape::new().pax(&[("path", b"a")]).end()),
        Err(TarError::Truncated)
    ));
    assert!(matches!(
        faulty(Tape::new().special(EntryType::new(b'M'), b"")),
        TarError::Type { entry_type: 'M', .. }
    ));
}

#[test]
fn sparse_members_are_refused() {
    let sparse = Tape::new().special(EntryType::GNUSparse, b"");
    assert!(matches!(all(sparse.end()), Err(TarError::Sparse { .. })));
    let pax = Tape::new().pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.realsize", b"9223372036854775807"),
    ]);
    assert!(matches!(all(pax.file("f", b"").end()), Err(TarError::Sparse { .. })));
}

#[test]
fn extended_headers_are_bounded() {
    // Ten gigabytes of a name, which are not even there.
    let header = Tape::header(
        &Entry {
            kind: EntryType::GNULongName,
            ..Entry::default()
        },
        10 << 30,
    );
    let error = all(Tape::new().raw(header.as_bytes()).end()).unwrap_err();
    assert!(matches!(error, TarError::ExtendedSize { .. }), "{error}");
    let value = vec![b'x'; XATTR_VALUE_MAX + 1];
    let tape = Tape::new().pax(&[("SCHILY.xattr.user.a", &value)]).file("f", b"");
    assert!(matches!(all(tape.end()), Err(TarError::Xattrs { .. })));
    let keys: Vec<String> = (0..=XATTRS_MAX).map(|i| format!("SCHILY.xattr.user.{i}")).collect();
    let records: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &b"x"[..])).collect();
    assert!(matches!(
        all(Tape::new().pax(&records).file("f", b"").end()),
        Err(TarError::Xattrs { .. })
    ));
}

#[test]
fn what_the_tar_crate_writes_is_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "long/".repeat(40);
    let mut header = Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o4755);
    header.set_uid(u64::from(u32::MAX - 1));
    header.set_gid(7);
    builder
        .append_data(&mut header, format!("{long}f"), &b"hello"[..])
        .unwrap();
    let all = all(builder.into_inner().unwrap()).unwrap();
    assert_eq!(
        (all[0].0.path.len(), all[0].0.mode, all[0].0.uid),
        (201, 0o4755, u32::MAX - 1)
    );
    assert_eq!(all[0].1, b"hello");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(flips in prop::collection::vec((0_usize..4096, any::<u8>()), 1..20), fix in any::<bool>()) {
        let mut bytes = Tape::new().dir("d").pax(&[("path", b"p"), ("SCHILY.xattr.user.a", b"v")]).file("f", b"data")
            .special(EntryType::GNULongName, b"long").symlink("s", "t").end();
        let length = bytes.len();
        for (at, byte) in flips {
            bytes[at % length] = byte;
        }
        if fix {
            // Right checksums let the damage in deeper.
            for block in bytes.chunks_mut(512) {
                let mut header = Header::from_byte_slice(block).clone();
                if header.entry_type().as_byte() != 0 {
                    header.set_cksum();
                    block.copy_from_slice(header.as_bytes());
                }
            }
        }
        if let Ok(all) = all(bytes) {
            for (member, data) in all {
                prop_assert!(!member.path.contains(&0));
                prop_assert_eq!(member.size, data.len() as u64);
            }
        }
    }
}
