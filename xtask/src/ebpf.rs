//! Rebuilds the committed eBPF object.
pub(crate) fn run(_check: bool) -> anyhow::Result<()> {
    anyhow::bail!("the eBPF build is not part of this tree")
}
