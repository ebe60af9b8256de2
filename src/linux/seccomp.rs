//! (stand-in)

#[derive(Debug, thiserror::Error)]
#[error("no seccomp")]
pub struct SeccompError;

#[derive(Debug, Clone)]
pub struct Program;

#[expect(clippy::unnecessary_wraps, reason = "stand-in")]
pub fn compile(_profile: &oci_spec::runtime::LinuxSeccomp) -> Result<Program, SeccompError> {
    Ok(Program)
}

impl Program {
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "stand-in")]
    pub fn install(&self) -> Result<(), nix::errno::Errno> {
        Ok(())
    }
}
