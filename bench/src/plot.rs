//! Plots the results: one panel for each metric, one bar for each stack.

use std::fmt::Write as _;

use crate::results::{METRICS, Metric, Results};
use crate::stack::REFERENCE;

const COLUMNS: usize = 3;
const PANEL: (f64, f64) = (430.0, 250.0);
const BAR: f64 = 18.0;
/// Where bars start, and the length of the longest.
const LEFT: f64 = 130.0;
const LONGEST: f64 = 200.0;

pub(crate) fn svg(results: &Results) -> String {
    let rows = METRICS.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL.0 * COLUMNS as f64, PANEL.1 * rows as f64);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    for (place, metric) in METRICS.iter().enumerate() {
        let (x, y) = ((place % COLUMNS) as f64 * PANEL.0, (place / COLUMNS) as f64 * PANEL.1);
        // Writing to a string does not fail.
        let _ = writeln!(text, "<g transform=\"translate({x} {y})\">");
        panel(results, metric, &mut text);
        text.push_str("</g>\n");
    }
    text.push_str("</svg>\n");
    text
}

fn panel(results: &Results, metric: &Metric, text: &mut String) {
    let _ = writeln!(
        text,
        "<text x=\"{LEFT}\" y=\"24\" font-weight=\"bold\">{}, {}</text>",
        metric.name, metric.unit
    );
    let summaries = results.outcomes.iter().map(|outcome| (outcome.name, outcome.summary(metric)));
    let summaries = summaries.collect::<Vec<_>>();
    let most = summaries.iter().filter_map(|(_, summary)| Some(summary.as_ref()?.most));
    let scale = LONGEST / most.fold(f64::MIN_POSITIVE, f64::max);
    for (place, (name, summary)) in summaries.iter().enumerate() {
        let y = 36.0 + place as f64 * (BAR + 4.0);
        let middle = y + BAR / 2.0;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{name}</text>",
            LEFT - 6.0,
            middle + 4.0
        );
        let Some(summary) = summary else {
            let _ = writeln!(text, "<text x=\"{LEFT}\" y=\"{}\">–</text>", middle + 4.0);
            continue;
        };
        let end = |value: f64| LEFT + value * scale;
        let _ = writeln!(
            text,
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{}\"/>\
             <path d=\"M{:.1} {middle}H{:.1}\" stroke=\"#333\" stroke-width=\"1.5\"/>\
             <text x=\"{:.1}\" y=\"{}\">{:.*}</text>",
            summary.median * scale,
            colour(name),
            end(summary.least),
            end(summary.most),
            end(summary.most) + 5.0,
            middle + 4.0,
            metric.digits,
            summary.median,
        );
    }
}

fn colour(name: &str) -> &'static str {
    match name {
        REFERENCE => "#8c8c8c",
        _ if name.starts_with("tidegate") => "#2a7fb8",
        _ => "#c9d3da",
    }
}
