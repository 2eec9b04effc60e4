//! Checks of the whole repository by tools of others: each feature alone and in pairs, the lockfile that must
//! leave room for libp2p, and the spelling.

use std::path::PathBuf;
use std::process::Command;

use crate::suites::cargo;
use crate::{Result, read, root, run, system, target};

const HACK: &str = "0.6.46";
const TYPOS: &str = "1.52.0";
/// Crates with features.
const FEATURES: [&str; 1] = ["tidegate"];

/// Every feature alone, and every two of them: what only compiles beside others is found.
pub(crate) fn features() -> Result {
    for (name, manifest) in manifests("crates")? {
        if manifest.contains("\n[features]\n") != FEATURES.contains(&&*name) {
            return Err(format!(
                "{name}: xtask/src/checks.rs has another list of crates with features"
            ));
        }
    }
    let hack = crate_tool("cargo-hack", HACK)?;
    for package in FEATURES {
        // The same program as for the workspace, so that what it depends on is there.
        let clippy = ["hack", "clippy", "-p", package, "--locked", "--feature-powerset"];
        let mut command = Command::new(&hack);
        command.current_dir(root()).args(clippy);
        run(command.args(["--depth", "2", "--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// A tool that crates.io has, in one version.
fn crate_tool(name: &str, version: &str) -> Result<PathBuf> {
    let folder = target().join("tools").join(format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    if !program.exists() {
        let exactly = format!("={version}");
        let install = ["install", name, "--locked", "--quiet", "--version", &exactly, "--root"];
        run(cargo().args(install).arg(&folder))?;
    }
    Ok(program)
}

/// The version of libp2p that the root's lockfile leaves room for.
const LIBP2P: &str = "0.57";

/// rust-libp2p demands one old version of wasm-bindgen, and a lockfile has one version of it: so nothing in the
/// root may demand another. Resolves the workspace together with libp2p, in a folder of its own.
pub(crate) fn resolves() -> Result {
    let folder = target().join("resolves");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(failed)?;
    }
    let guest = "[package]\nname = \"guest\"\nversion = \"0.0.0\"\nedition = \"2024\"\n";
    let libp2p = format!("libp2p = {{ version = \"{LIBP2P}\", features = [\"full\"] }}\n");
    let mut packages = vec![("guest".to_owned(), format!("{guest}\n[dependencies]\n{libp2p}"))];
    for parent in ["crates", "."] {
        let manifests = manifests(parent)?;
        packages.extend(manifests.into_iter().filter(|(name, _)| parent != "." || name == "xtask"));
    }
    let members = packages.iter().map(|(name, _)| format!("\"crates/{name}\""));
    let members = format!("members = [{}]", members.collect::<Vec<_>>().join(", "));
    let mut manifest = read(&root().join("Cargo.toml"))?;
    for (key, line) in [("members", &*members), ("exclude", ""), ("default-members", "")] {
        let old = manifest.lines().find(|line| line.starts_with(&format!("{key} = ")));
        let old = old.ok_or_else(|| format!("Cargo.toml: no `{key}` in one line"))?.to_owned();
        manifest = manifest.replacen(&old, line, 1);
    }
    for (name, manifest) in packages {
        let package = folder.join("crates").join(&name);
        std::fs::create_dir_all(package.join("src")).map_err(failed)?;
        std::fs::write(package.join("Cargo.toml"), manifest).map_err(failed)?;
        std::fs::write(package.join("src/lib.rs"), "").map_err(failed)?;
    }
    std::fs::write(folder.join("Cargo.toml"), manifest).map_err(failed)?;
    let resolve = ["generate-lockfile", "--quiet", "--manifest-path"];
    run(cargo().args(resolve).arg(folder.join("Cargo.toml"))).map_err(|error| {
        format!("{error}\nThe root does not resolve beside libp2p {LIBP2P}: see the notes in web/Cargo.toml.")
    })
}

/// The packages in a folder: their folders' names, and their manifests.
fn manifests(folder: &str) -> Result<Vec<(String, String)>> {
    let folder = root().join(folder);
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let manifest = path.join("Cargo.toml");
        if let Some(name) = path.file_name().filter(|_| manifest.exists()) {
            found.push((name.to_string_lossy().into_owned(), read(&manifest)?));
        }
    }
    found.sort();
    Ok(found)
}

/// The manifests that must not name wasm-bindgen.
pub(crate) fn outside_of_web() -> Result<Vec<(String, String)>> {
    let mut found = vec![("Cargo.toml".to_owned(), read(&root().join("Cargo.toml"))?)];
    for folder in [".", "crates", "transports"] {
        found.extend(manifests(folder)?.into_iter().filter(|(name, _)| name != "web"));
    }
    Ok(found)
}

/// Whether a manifest names what only `web/` may: crates that demand one version of wasm-bindgen.
pub(crate) fn names_wasm_bindgen(manifest: &str) -> Option<&str> {
    const OF_BROWSERS: [&str; 6] =
        ["wasm-bindgen", "js-sys", "web-sys", "wasm-streams", "console_error_panic_hook", "gloo"];
    let key = |line: &str| line.split([' ', '.', '=', ']']).next().unwrap_or_default().to_owned();
    manifest.lines().find(|line| {
        let key =
            key(line.trim_start_matches("[dependencies.").trim_start_matches("[dev-dependencies."));
        OF_BROWSERS.iter().any(|name| {
            key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    })
}

/// Words that are misspelled, in everything that is checked in: typos.toml has those that are right.
pub(crate) fn typos() -> Result {
    let typos = system::wheel("typos", TYPOS, "bin/typos")?;
    run(Command::new(typos).current_dir(root()).args(["--hidden", "--exclude", ".git"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_that_demand_a_wasm_bindgen_are_found() {
        for line in
            ["wasm-bindgen = \"1\"", "wasm-bindgen-test.workspace = true", "[dependencies.web-sys]"]
        {
            assert_eq!(names_wasm_bindgen(&format!("[package]\n{line}\n")), Some(line));
        }
        assert_eq!(names_wasm_bindgen("# wasm-bindgen\nweb-time = \"1\"\n"), None);
    }
}
