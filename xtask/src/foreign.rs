//! `cargo xtask vectors`: the golden vectors, read and written by code that is not ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, root, run, system, target};

/// Debian's packages with `rpcgen`, with the XDR runtime, and with a C compiler.
const PACKAGES: [&str; 4] = ["rpcsvc-proto", "libtirpc-dev", "gcc", "libc6-dev"];
const HEADERS: &str = "/usr/include/tirpc";

/// Builds the program of `spec/check` with what `rpcgen` makes of the schema, and runs it.
pub(crate) fn check() -> Result {
    set_up()?;
    let folder = target().join("foreign");
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(&folder).map_err(failed)?;
    let spec = root().join("spec");
    // rpcgen derives names from the path that it is given: it runs where a copy of the file is.
    std::fs::copy(spec.join("tidegate.x"), folder.join("tidegate.x")).map_err(failed)?;
    for (flag, output) in [("-h", "tidegate.h"), ("-c", "tidegate_xdr.c")] {
        // It does not write over a file that is there.
        let _ = std::fs::remove_file(folder.join(output));
        let rpcgen = ["rpcgen", flag, "-o", output, "tidegate.x"];
        run(Command::new(rpcgen[0]).args(&rpcgen[1..]).current_dir(&folder))?;
    }
    let program = folder.join("vectors");
    run(Command::new("cc")
        .args(["-O1", "-I.", "-I", HEADERS, "tidegate_xdr.c"])
        .arg(spec.join("check/vectors.c"))
        .args(["-ltirpc", "-o"])
        .arg(&program)
        .current_dir(&folder))?;
    run(Command::new(program).args(vectors(&spec.join("vectors"))?))
}

fn vectors(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        files.extend((path.extension().is_some_and(|ext| ext == "json")).then_some(path));
    }
    files.sort();
    Ok(files)
}

/// Installs what is missing where this is possible, and says so.
fn set_up() -> Result {
    if system::has("rpcgen") && system::has("cc") && Path::new(HEADERS).exists() {
        return Ok(());
    }
    system::install("rpcgen, a C compiler and libtirpc", &PACKAGES)
}
