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
    let hack = crate_tool("cargo-hack", "cargo-hack", HACK)?;
    for package in FEATURES {
        // The same program as for the workspace, so that what it depends on is there.
        let clippy = ["hack", "clippy", "-p", package, "--locked", "--feature-powerset"];
        let mut command = Command::new(&hack);
        command.current_dir(root()).args(clippy);
        // Features that only others name have nothing of their own.
        let inner = ["--exclude-features", "ip,udp"];
        let inner: &[&str] = if package == "tidegate" { &inner } else { &[] };
        run(command.args(inner).args(["--depth", "2", "--", "-D", "warnings"]))?;
    }
    Ok(())
}

/// A program of a crate that crates.io has, in one version.
fn crate_tool(name: &str, program: &str, version: &str) -> Result<PathBuf> {
    let folder = target().join("tools").join(format!("{name}-{version}"));
    let program = folder.join("bin").join(program);
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
/// root may demand another. Resolves the workspace together with libp2p, in a folder of its own. Starts
/// from the root's lockfile: what it has must be able to give way.
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
    std::fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).map_err(failed)?;
    let resolve = ["update", "--workspace", "--quiet", "--manifest-path"];
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

/// What a manifest names that only `web/` may: crates that demand one version of wasm-bindgen. Looks at the
/// dependencies of all kinds and targets, by the names of the packages.
pub(crate) fn names_wasm_bindgen(manifest: &str) -> Result<Option<String>> {
    let manifest = manifest.parse::<toml::Table>().map_err(|error| error.to_string())?;
    Ok(of_browsers(&manifest))
}

fn of_browsers(table: &toml::Table) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let inner = value.as_table()?;
        if !key.ends_with("dependencies") {
            return of_browsers(inner);
        }
        let packages = inner.iter().map(|(name, dependency)| {
            dependency.get("package").and_then(toml::Value::as_str).unwrap_or(name)
        });
        packages.into_iter().find(|name| is_of_browsers(name)).map(str::to_owned)
    })
}

/// Whether a package is one of these, or one of its companions, as wasm-bindgen-test is.
fn is_of_browsers(package: &str) -> bool {
    const OF_BROWSERS: [&str; 7] = [
        "wasm-bindgen",
        "wasm-pack",
        "js-sys",
        "web-sys",
        "wasm-streams",
        "console_error_panic_hook",
        "gloo",
    ];
    OF_BROWSERS.iter().any(|name| {
        package.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

/// Words that are misspelled, in everything that is checked in: typos.toml has those that are right.
pub(crate) fn typos() -> Result {
    let typos = system::wheel("typos", TYPOS, "bin/typos").or_else(|error| {
        eprintln!("{error}\nbuilding typos instead, which takes minutes");
        crate_tool("typos-cli", "typos", TYPOS)
    })?;
    run(Command::new(typos).current_dir(root()).args(["--hidden", "--exclude", ".git"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_that_demand_a_wasm_bindgen_are_found() {
        for (manifest, package) in [
            ("[dependencies]\nwasm-bindgen = \"1\"", "wasm-bindgen"),
            ("[dev-dependencies]\nwasm-bindgen-test.workspace = true", "wasm-bindgen-test"),
            ("[dependencies.web-sys]\nversion = \"1\"", "web-sys"),
            ("[workspace.dependencies]\njs-sys = \"1\"", "js-sys"),
            ("[target.'cfg(unix)'.dependencies.gloo-net]\nversion = \"1\"", "gloo-net"),
            ("[build-dependencies]\n  \"wasm-pack\" = \"1\"", "wasm-pack"),
            ("[dependencies]\nours = { package = \"web-sys\", version = \"1\" }", "web-sys"),
        ] {
            let found = names_wasm_bindgen(manifest).unwrap();
            assert_eq!(found.as_deref(), Some(package), "{manifest}");
        }
        for fine in [
            "# wasm-bindgen\n[dependencies]\nweb-time = \"1\"",
            "[package]\nname = \"web-sys\"",
            "[features]\nweb-sys = []",
        ] {
            assert_eq!(names_wasm_bindgen(fine).unwrap(), None, "{fine}");
        }
    }
}
