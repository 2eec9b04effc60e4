//! What is made from the command's own definition: completions, manual pages, the API's document.

use std::path::PathBuf;

use anyhow::Context as _;
use clap_complete::Shell;

use crate::print;

/// For which shell.
#[derive(clap::Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Prints completions for a shell.
pub(crate) fn completions(
    arguments: &Completions,
    mut command: clap::Command,
) -> anyhow::Result<bool> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "tidegate", &mut text);
    print::text(format_args!("{}", String::from_utf8(text)?));
    Ok(true)
}

/// Where to.
#[derive(clap::Args)]
pub(crate) struct Man {
    /// Write a page for each subcommand to this folder, instead of printing the main one
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

/// Prints the manual page, or writes all of them to a folder.
pub(crate) fn man(arguments: &Man, command: clap::Command) -> anyhow::Result<bool> {
    match &arguments.folder {
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(command).render(&mut text)?;
            print::text(format_args!("{}", String::from_utf8(text)?));
        }
        Some(folder) => {
            let name = || folder.display().to_string();
            std::fs::create_dir_all(folder).with_context(name)?;
            clap_mangen::generate_to(command, folder).with_context(name)?;
        }
    }
    Ok(true)
}

/// Prints the document that describes the HTTP API.
pub(crate) fn openapi() -> anyhow::Result<bool> {
    print::json(&crate::api::openapi())
}
