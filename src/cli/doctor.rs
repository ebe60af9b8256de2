//! stub
pub fn run(_: &mut dyn std::io::Write, _: &crate::config::Config) -> anyhow::Result<bool> {
    todo!()
}
