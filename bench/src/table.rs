//! The results as Markdown.

use std::fmt::Write as _;

use crate::results::{METRICS, Outcome, Results, Target};

const OURS: &str = "tidegate";

pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::new();
    let machine = &results.machine;
    let plan = &results.plan;
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "{} rounds on {} cores of {}, Linux {}. With {}.\n\nEach cell: median over rounds (least to \
         most), and how many times {} of the same round. Dials {}, at 25 ms one way {}, requests \
         {}, bulk {} MiB, idle connections {} in a round.\n\n",
        results.rounds,
        machine.cores,
        machine.cpu,
        machine.kernel,
        results.versions.join(", "),
        results.reference,
        plan.dials,
        plan.far_dials,
        plan.asks,
        plan.bulk_mib,
        plan.idle,
    );
    let heads = METRICS.iter().map(|metric| format!("{}, {}", metric.name, metric.unit));
    line(&mut text, "stack", heads);
    line(&mut text, "---", METRICS.iter().map(|_| "---:".to_owned()));
    for outcome in &results.outcomes {
        line(&mut text, outcome.name, cells(results, outcome));
    }
    text.push('\n');
    for outcome in &results.outcomes {
        if let Some(note) = outcome.note {
            let _ = writeln!(text, "- {}: {note}.", outcome.name);
        }
        for failure in &outcome.failures {
            let _ = writeln!(text, "- {}: a round failed: {failure}", outcome.name);
        }
    }
    text.push('\n');
    targets(results, &mut text);
    text
}

fn line(text: &mut String, first: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(text, "| {first} |");
    for cell in cells {
        let _ = write!(text, " {cell} |");
    }
    text.push('\n');
}

fn cells(results: &Results, outcome: &Outcome) -> impl Iterator<Item = String> {
    METRICS.iter().map(move |metric| {
        let Some(summary) = outcome.summary(metric) else { return "–".to_owned() };
        let digits = metric.digits;
        let mut cell = format!(
            "{:.digits$} ({:.digits$}–{:.digits$})",
            summary.median, summary.least, summary.most
        );
        if let Some(ratio) = results.ratio(outcome, metric) {
            let _ = write!(cell, " ×{ratio:.2}");
        }
        cell
    })
}

/// The targets for Tidegate, and whether they are met.
fn targets(results: &Results, text: &mut String) {
    let ours = results.outcomes.iter().filter(|outcome| outcome.name.starts_with(OURS));
    for outcome in ours {
        for metric in &METRICS {
            let Some(target) = metric.target else { continue };
            let Some(ratio) = results.ratio(outcome, metric) else { continue };
            let wanted = match target {
                Target::AtMost(most) => format!("at most {most}"),
                Target::AtLeast(least) => format!("at least {least}"),
            };
            let met = if target.met(ratio) { "met" } else { "MISSED" };
            let _ = writeln!(
                text,
                "- {met}: {}, {}: {ratio:.2} times {}, wanted {wanted}.",
                outcome.name, metric.name, results.reference
            );
        }
    }
}
