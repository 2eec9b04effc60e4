//! What commands print.

use std::io::Write as _;

/// Prints something as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<bool> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(true)
}
