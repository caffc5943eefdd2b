//! What the servers need from the operating system.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// Something that must be on the machine, and the Debian package that has it.
pub struct Need {
    /// As a person would name it: "a Java runtime, version 17 or newer".
    pub what: &'static str,
    pub debian_package: &'static str,
    pub is_met: fn() -> bool,
}

/// Makes sure that all of `needs` are met. As root on Debian (or what descends from it) missing
/// packages are installed, which is printed; otherwise the error names what is missing and the
/// command that installs it.
pub fn ensure_installed(needs: &[&Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().copied().filter(|need| !(need.is_met)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let what = missing.iter().map(|need| need.what).collect::<Vec<_>>().join(", ");
    let packages: Vec<&str> = missing.iter().map(|need| need.debian_package).collect();
    let command = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !rustix::process::geteuid().is_root() || program_in_path("apt-get").is_none() {
        bail!("missing: {what}\non Debian or Ubuntu, as root: apt-get update && {command}");
    }

    println!("missing: {what}; installing: {command}");
    apt_get(&["update"])?;
    apt_get(&[&["install", "-y", "--no-install-recommends"], packages.as_slice()].concat())?;
    let still: Vec<_> = missing.iter().filter(|need| !(need.is_met)()).map(|need| need.what).collect();
    ensure!(still.is_empty(), "still missing after {command}: {}", still.join(", "));
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(["-qq", "--option", "Dpkg::Use-Pty=0"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .context("cannot run apt-get")?;
    ensure!(status.success(), "apt-get {} failed: {status}", arguments.join(" "));
    Ok(())
}

/// Where `name` is found in `PATH`.
pub(crate) fn program_in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|directory| directory.join(name)).find(|program| is_program(program))
}

pub(crate) fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
