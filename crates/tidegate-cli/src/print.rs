//! What commands print.

use std::io::Write as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Prints a line to stdout.
macro_rules! say {
    ($($word:tt)*) => { $crate::print::text(format_args!("{}\n", format_args!($($word)*))) };
}
pub(crate) use say;

/// Prints a text. If the reader is gone, as with `| head`, that is no error.
pub(crate) fn text(text: std::fmt::Arguments<'_>) {
    if let Err(error) = std::io::stdout().write_fmt(text) {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        complain(format_args!("tidegate: stdout: {error}"));
        std::process::exit(2);
    }
}

/// Prints a line to stderr. If that fails, as on a full disk, there is still the exit code.
pub(crate) fn complain(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints something as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<bool> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(true)
}

/// A bar on stderr for work of known length in bytes; on anything but a terminal it is silent.
pub(crate) fn bar(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {percent} %, {eta} left");
    ProgressBar::new(length).with_style(style.expect("a constant template"))
}

/// The same for work of unknown length.
pub(crate) fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
    let spinner = ProgressBar::new_spinner().with_style(style.expect("a constant template"));
    spinner.enable_steady_tick(Duration::from_millis(200));
    spinner
}
