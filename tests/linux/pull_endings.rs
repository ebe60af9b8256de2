//! Pulls that end in the middle: the agent is killed, or the disk is full.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::fs::FallocateFlags;
use serde_json::json;

use crate::common::{Agent, busybox_root_tar, container, patience, pod, podd, wait_for, with};
use crate::fake_registry::{FakeRegistry, Guard};

/// Numbers that look random, always the same from one seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }

    fn noise(&mut self, size: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.roll().to_le_bytes()[0])
            .take(size)
            .collect()
    }
}

/// What a layer holds.
type Files = BTreeMap<PathBuf, Vec<u8>>;

const LAYERS: usize = 3;
const FILES: usize = 12;

/// A layer of noise, and its tar.
fn noisy(dice: &mut Dice) -> (Files, Vec<u8>) {
    let mut files = Files::new();
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..FILES {
        let path = PathBuf::from(format!("directory-{}/file-{number}", number % 3));
        let size = usize::try_from(dice.below(40_000)).unwrap();
        let data = dice.noise(size);
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, &path, &data[..]).unwrap();
        files.insert(path, data);
    }
    (files, tar.into_inner().unwrap())
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

fn files(root: &Path) -> Files {
    let mut found = Files::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                ahead.push(path);
            } else {
                found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// When an agent is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// The registry has sent so many bytes of the blobs, and sends no more.
    Sent(u64),
    /// So many things lie in the directories that layers are unpacked into.
    Unpacked(usize),
    /// So many layers have their place; none of the image is recorded, or all.
    Kept(usize),
    /// After so many looks.
    Looks(u64),
}

/// How much lies beneath a directory: two levels down.
fn beneath(directory: &Path) -> usize {
    let within = |path: PathBuf| names(&path).into_iter().map(move |name| path.join(name));
    let scratches = within(directory.to_owned());
    scratches.flat_map(within).map(|path| names(&path).len()).sum()
}

/// Wait for the moment, or for the end of the pull.
fn wait_moment(moment: Moment, images: &Path, pull: &mut Child, registry: &FakeRegistry) {
    let kept = names(&images.join("layers")).len();
    let begun = Instant::now();
    let mut looks = 0;
    while pull.try_wait().unwrap().is_none() && begun.elapsed() < patience() {
        let is_now = match moment {
            Moment::Sent(_) => {
                registry.wait_sent();
                true
            }
            Moment::Unpacked(things) => beneath(&images.join("tmp")) >= things,
            Moment::Kept(layers) => names(&images.join("layers")).len() >= kept + layers,
            Moment::Looks(all) => looks == all,
        };
        if is_now {
            return;
        }
        looks += 1;
        std::thread::yield_now();
    }
}

fn pull(agent: &Agent, image: &str) -> Child {
    podd()
        .args(["image", "pull", image])
        .env("PODD_SOCKET", agent.socket())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn verify(agent: &Agent) {
    let verified = agent.podd(&["image", "verify"]);
    assert!(verified.status.success(), "{verified:?} {}", agent.agent_log());
}

fn wait_tmp_empty(agent: &Agent) {
    let tmp = agent.root().join("images/tmp");
    wait_for("nothing to be left in tmp", || match names(&tmp) {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    });
}

#[test]
fn an_agent_killed_at_any_moment_of_a_pull_believes_no_part_of_a_layer() {
    let seed = RandomState::new().hash_one("moments");
    eprintln!("seed {seed}");
    let mut dice = Dice(seed);
    let registry = FakeRegistry::start(Guard::Open);
    let mut agent = Agent::start_empty(&[]);
    let images = agent.root().join("images");
    let mut all: BTreeMap<String, Files> = BTreeMap::new();
    let mut broken_off = 0;
    let moments: Vec<Moment> = (0..8)
        // An image has some 700 kB, and hardly ever less than 450.
        .map(|part| Moment::Sent(part * 60_000 + 1))
        .chain((0..5).map(|part| Moment::Unpacked(part * 2 + 1)))
        .chain((1..=LAYERS).map(Moment::Kept))
        .chain((0..6).map(|part| Moment::Looks(dice.below(300 << part))))
        .collect();
    for (number, moment) in moments.into_iter().enumerate() {
        let mut layers = Vec::new();
        let mut contents = Vec::new();
        for _ in 0..LAYERS {
            let (files, tar) = noisy(&mut dice);
            contents.push(files);
            layers.push(tar);
        }
        let hexes = registry.put("team/app", &format!("v{number}"), &layers);
        all.extend(hexes.iter().cloned().zip(contents));
        let image = registry.name(&format!("team/app:v{number}"));

        registry.allow(if let Moment::Sent(bytes) = moment {
            bytes
        } else {
            u64::MAX
        });
        let mut pulling = pull(&agent, &image);
        wait_moment(moment, &images, &mut pulling, &registry);
        agent.kill();
        let was_whole = pulling.wait().unwrap().success();
        broken_off += usize::from(!was_whole);
        if let Moment::Sent(_) = moment {
            assert!(!was_whole, "{moment:?}: the registry had not sent all of it");
        }
        registry.allow(u64::MAX);

        agent.start_again();
        assert_eq!(names(&images.join("tmp")), [""; 0], "{moment:?}");
        let whole = |when: &str| {
            for hex in names(&images.join("layers")) {
                let expected = all.get(&hex).unwrap_or_else(|| panic!("{when}: {hex} is no layer"));
                let found = files(&images.join("layers").join(&hex));
                assert!(found == *expected, "{moment:?}, {when}: layer {hex} is not whole");
            }
        };
        whole("after the kill");
        verify(&agent);
        let again = pull(&agent, &image).wait_with_output().unwrap();
        assert!(again.status.success(), "{moment:?}: {again:?} {}", agent.agent_log());
        whole("pulled again");
        for hex in &hexes {
            assert!(images.join("layers").join(hex).is_dir(), "{moment:?}: {hex} is missing");
        }
        wait_tmp_empty(&agent);
    }
    eprintln!("{broken_off} pulls were broken off by {} kills", all.len() / LAYERS);
    verify(&agent);
    assert_eq!(names(&images.join("layers")).len(), all.len());
}

/// A small disk of its own.
struct Disk {
    place: PathBuf,
    ballast: PathBuf,
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.place).output();
    }
}

impl Disk {
    fn mount(beneath: &Path, place: PathBuf, bytes: u64) -> Self {
        let run = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
        };
        let file = beneath.join("disk");
        fs::File::create(&file).unwrap().set_len(bytes).unwrap();
        let file = file.to_str().unwrap();
        // All of it for whoever writes.
        run("mkfs.ext4", &["-q", "-m", "0", file]);
        fs::remove_dir_all(&place).unwrap();
        fs::create_dir_all(&place).unwrap();
        run("mount", &["-o", "loop", file, place.to_str().unwrap()]);
        let ballast = place.join("ballast");
        Self { place, ballast }
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.place).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Leave no more than this free.
    fn fill(&self, leave: u64) {
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(&self.ballast)
            .unwrap();
        let mut step = 64 << 20;
        let mut size = file.metadata().unwrap().len();
        while step >= 4096 {
            let room = self.free().saturating_sub(leave);
            if room < step || rustix::fs::fallocate(&file, FallocateFlags::empty(), size, step).is_err() {
                step /= 2;
                continue;
            }
            size += step;
        }
    }

    fn make_room(&self) {
        fs::remove_file(&self.ballast).unwrap();
    }
}

#[test]
fn a_full_disk_ends_a_pull_by_name_and_the_next_one_succeeds() {
    const MIB: u64 = 1 << 20;
    let registry = FakeRegistry::start(Guard::Open);
    let mut agent = Agent::start_empty(&[]);
    agent.stop();
    let disk = Disk::mount(&agent.dir, agent.root(), 512 * MIB);
    agent.start_again();
    let images = agent.root().join("images");

    // Less is free than pulls may leave.
    disk.fill(200 * MIB);
    let busybox = fs::read(busybox_root_tar(&agent.dir)).unwrap();
    registry.put("team/app", "v1", &[busybox]);
    let image = registry.name("team/app:v1");
    agent.create(&with(pod("p", &[("c", "exec sleep 1000")]), |p| {
        p["spec"]["containers"][0]["image"] = json!(image);
    }));
    let refused = agent.wait_pod("p", "to miss room", |p| {
        container(p, "c")["state"]["waiting"]["reason"] == "ErrImagePull"
    });
    let message = container(&refused, "c")["state"]["waiting"]["message"].to_string();
    let named = format!("no space left on the disk that holds {}", images.display());
    assert!(message.contains(&named) && message.contains(&image), "{message}");
    verify(&agent);
    wait_tmp_empty(&agent);
    // The pod comes by itself once there is room.
    disk.make_room();
    agent.wait_running("p");

    // In the middle of a blob everything is taken.
    let mut dice = Dice(1);
    let layers = [noisy(&mut dice).1, noisy(&mut dice).1];
    let all: u64 = layers.iter().map(|layer| layer.len() as u64).sum();
    registry.put("team/app", "v2", &layers);
    let image = registry.name("team/app:v2");
    registry.allow(all / 3);
    let pulling = pull(&agent, &image);
    registry.wait_sent();
    disk.fill(0);
    registry.allow(u64::MAX);
    let ended = pulling.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        !ended.status.success() && said.contains(&named),
        "{ended:?} {}",
        agent.agent_log()
    );
    verify(&agent);
    // What is there is told; what cannot be stored is refused, and by what.
    disk.fill(0);
    assert_eq!(agent.pod("p")["status"]["phase"], "Running");
    let words = json!({"metadata": {"name": "words"}, "data": {"words": "word ".repeat(100_000)}});
    let refused = agent.request("POST", "/api/v1/namespaces/default/configmaps", Some(&words));
    assert_eq!(refused.code, 500, "{refused:?}");
    assert!(
        refused.text.contains("the disk of the state database is full"),
        "{refused:?}"
    );

    // An agent that comes back finds a disk that is full, and serves what is there.
    agent.kill();
    disk.fill(0);
    agent.start_again();
    assert_eq!(names(&images.join("tmp")), [""; 0]);
    assert_eq!(agent.pod("p")["status"]["phase"], "Running");
    verify(&agent);
    disk.make_room();
    let made = agent.request("POST", "/api/v1/namespaces/default/configmaps", Some(&words));
    assert_eq!(made.code, 201, "{made:?}");
    let pulled = pull(&agent, &image).wait_with_output().unwrap();
    assert!(pulled.status.success(), "{pulled:?} {}", agent.agent_log());
    verify(&agent);
    agent.delete("p", Some(0));
    agent.wait_gone("p");
}
