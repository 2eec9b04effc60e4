//! What the tests need of the operating system, installed where that is possible.

use std::path::PathBuf;
use std::process::Command;

use crate::{Result, run, target};

/// Whether a program is there.
pub(crate) fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok()
}

/// Installs Debian packages, and says so. `what` is what they are needed for.
pub(crate) fn install(what: &str, packages: &[&str]) -> Result {
    let names = packages.join(" ");
    let missing = format!("missing: {what}. On Debian: apt-get install {names}");
    if !has("apt-get") {
        return Err(missing);
    }
    eprintln!("installing {names}");
    let sudo: &[&str] = if is_root() { &[] } else { &["sudo", "-n"] };
    let apt = |arguments: &[&str]| {
        let words = [sudo, &["apt-get", "-qq"], arguments].concat();
        run(Command::new(words[0]).args(&words[1..]))
    };
    let install = [&["install", "-y", "--no-install-recommends"][..], packages].concat();
    // The lists may be older than the packages, or not there at all.
    let installed = apt(&install).or_else(|_| apt(&["update"]).and_then(|()| apt(&install)));
    installed.map_err(|error| format!("{missing}\n({error})"))
}

/// A program out of a Python package, in one version. Such packages have it built for each platform,
/// where building it here would take minutes.
pub(crate) fn wheel(package: &str, version: &str, program: &str) -> Result<PathBuf> {
    let folder = target().join("tools").join(format!("{package}-{version}"));
    let path = folder.join(program);
    let runs = || Command::new(&path).arg("--version").output().is_ok_and(|o| o.status.success());
    if runs() {
        return Ok(path);
    }
    let pip = || {
        let mut python = Command::new("python3");
        python.args(["-m", "pip"]).env("PIP_ROOT_USER_ACTION", "ignore");
        python
    };
    if !pip().arg("--version").output().is_ok_and(|output| output.status.success()) {
        install("pip", &["python3-pip"])?;
    }
    eprintln!("installing {package} {version} into {}", folder.display());
    let install = ["install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target"];
    run(pip().args(install).arg(&folder).arg(format!("{package}=={version}")))?;
    if runs() { Ok(path) } else { Err(format!("{} does not run here", path.display())) }
}

/// Why there are no network namespaces here, if so: in some containers they are forbidden.
pub(crate) fn namespaces() -> Result {
    let tries = "mount -t tmpfs none /run && ip netns add host0 && \
                 ip link add name bridge0 type bridge && \
                 ip link add name veth0 type veth peer name veth1 && ip link set veth0 netns host0";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--mount", "--pid", "--fork", "sh", "-c", tries]);
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
