//! `/metrics`: counters and gauges for Prometheus. Their names are part of the API.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tidegate::stats::{Count, Stats};
use tidegate::transport::Traffic;
use tidegate::wire::{RefusalKind, Report};
use tidegate::{Status, Violation};

use super::Api;
use super::problem::Problem;

/// The format that Prometheus requests: OpenMetrics 1.0.0.
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The format for other clients: the older Prometheus text format.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels and their values.
type Labels = Vec<(&'static str, String)>;

const REFUSALS: [(RefusalKind, &str); 10] = [
    (RefusalKind::WrongNetwork, "wrong_network"),
    (RefusalKind::NoCommonVersion, "no_common_version"),
    (RefusalKind::Full, "full"),
    (RefusalKind::SelfDial, "self_dial"),
    (RefusalKind::Duplicate, "duplicate"),
    (RefusalKind::NotAllowed, "not_allowed"),
    (RefusalKind::Banned, "banned"),
    (RefusalKind::ShuttingDown, "shutting_down"),
    (RefusalKind::BadSignature, "bad_signature"),
    (RefusalKind::Busy, "busy"),
];

const REPORTS: [(Report, &str); 6] = [
    (Report::First, "first"),
    (Report::Duplicate, "duplicate"),
    (Report::Late, "late"),
    (Report::Surplus, "surplus"),
    (Report::Ignored, "ignored"),
    (Report::Rejected, "rejected"),
];

/// Counters and gauges, for Prometheus
#[utoipa::path(get, path = "/metrics", responses(
    (status = 200, description = "In the form that `Accept` prefers; of equal ones OpenMetrics", content(
        (String = "application/openmetrics-text"),
        (String = "text/plain")
    )),
    (status = "default", body = Problem, content_type = "application/problem+json")
))]
pub(super) async fn metrics(
    State(api): State<Api>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let (status, stats) = (api.node.status().await?, api.node.stats().await?);
    let traffic = api.node.traffic().await?;
    let mut scrape = Scrape::default();
    scrape.node(&status, api.events.syncing());
    scrape.traffic(traffic, &stats);
    scrape.judged(&stats);
    let mut text = String::new();
    encode(&mut text, &scrape.0).map_err(|error| Problem::unavailable(error.to_string()))?;
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    Ok(if wants_plain(accept.flat_map(|accept| accept.split(','))) {
        ([(header::CONTENT_TYPE, PLAIN)], plain(&text))
    } else {
        ([(header::CONTENT_TYPE, OPEN)], text)
    })
}

/// Whether the older text format is preferred, by the parts of `Accept` (RFC 9110, section 12.5.1).
fn wants_plain<'a>(accept: impl Iterator<Item = &'a str>) -> bool {
    let (mut open, mut plain) = (None, None);
    for part in accept {
        let mut words = part.split(';').map(str::trim);
        let kind = words.next().unwrap_or_default();
        let quality = words.find_map(|word| word.strip_prefix("q=")?.parse::<f32>().ok());
        let quality = quality.unwrap_or(1.0);
        let best = |known: Option<f32>| Some(known.map_or(quality, |known| known.max(quality)));
        match kind {
            "application/openmetrics-text" | "application/*" => open = best(open),
            "text/plain" | "text/*" => plain = best(plain),
            "*/*" => open = open.or(Some(quality)),
            _ => {}
        }
    }
    plain.is_some_and(|plain| open.is_none_or(|open| plain > open))
}

/// Converts OpenMetrics to the older text format: a counter's family has the suffix too, and there
/// is no end marker.
fn plain(text: &str) -> String {
    let counter = |line: &str| {
        let name = line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?;
        Some(name.to_owned())
    };
    let counters = text.lines().filter_map(counter).collect::<BTreeSet<_>>();
    let mut plain = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        let about = ["# HELP ", "# TYPE "].into_iter().find_map(|about| {
            let (name, rest) = line.strip_prefix(about)?.split_once(' ')?;
            counters.contains(name).then(|| format!("{about}{name}_total {rest}\n"))
        });
        match about {
            Some(line) => plain.push_str(&line),
            None => plain.extend([line, "\n"]),
        }
    }
    plain
}

/// The metrics of one scrape.
#[derive(Default)]
struct Scrape(Registry);

impl Scrape {
    fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (&'a [(&'static str, &'a str)], usize)>,
    ) {
        let family = Family::<Labels, Gauge>::default();
        for (labels, value) in values {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.get_or_create(&owned(labels)).set(value);
        }
        self.0.register(format!("tidegate_{name}"), help, family);
    }

    fn single_gauge(&mut self, name: &str, help: &str, value: usize) {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        self.0.register(format!("tidegate_{name}"), help, gauge);
    }

    fn single_counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        self.0.register(format!("tidegate_{name}"), help, counter);
    }

    fn counter(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.0.register(format!("tidegate_{name}"), help, family);
    }

    fn node(&mut self, status: &Status, syncing: bool) {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        self.gauge("build", "The program's version, as a label", [(&version[..], 1)]);
        let inbound = status.peers.iter().filter(|peer| peer.inbound).count();
        let outbound = status.peers.len() - inbound;
        let peers =
            [(&[("direction", "in")][..], inbound), (&[("direction", "out")][..], outbound)];
        self.gauge("peers", "Peers that are connected", peers);
        for (name, help, value) in [
            ("known_peers", "Peers in the address book", status.known_peers),
            ("met_peers", "Those of them that this node has met", status.met_peers),
            ("banned_peers", "Peers refused for a violation", status.bans),
            ("height", "Height of the best executed block", status.height as usize),
            ("syncing", "1 while the node fetches blocks it is far behind with", syncing.into()),
            ("pending_verdicts", "Questions that the application has not answered", status.tickets),
            (
                "fetch_bytes",
                "Bytes of items asked for, without verdict",
                status.fetch_bytes as usize,
            ),
            ("kept_blocks", "Blocks in memory", status.blocks_kept),
            ("kept_block_bytes", "Bytes of their items", status.block_bytes),
            ("store_backlog_bytes", "Bytes that are not durable yet", status.store_backlog),
        ] {
            self.single_gauge(name, help, value);
        }
        let pools = status.pools.iter().map(|(name, pool)| ([("pool", name.as_str())], pool));
        let pools = pools.collect::<Vec<_>>();
        let items = pools.iter().map(|(label, pool)| (&label[..], pool.items));
        self.gauge("pool_items", "Items of a pool", items);
        let bytes = pools.iter().map(|(label, pool)| (&label[..], pool.bytes));
        self.gauge("pool_bytes", "Bytes of the items of a pool", bytes);
        let given = pools.iter().map(|(label, pool)| (&label[..], pool.given));
        self.gauge("permits_given", "Permits that peers have spent here and not got back", given);
        let spent = pools.iter().map(|(label, pool)| (&label[..], pool.spent));
        self.gauge("permits_spent", "Permits spent at peers and not got back", spent);
    }

    fn traffic(&mut self, traffic: Traffic, stats: &Stats) {
        let way = |way: &str| vec![("direction", way.to_owned())];
        let both = |sent, received| [(way("sent"), sent), (way("received"), received)];
        let help = "Bytes on the wire, headers of UDP and IP not counted";
        self.counter("traffic_bytes", help, both(traffic.sent, traffic.received));
        let channel = |name: &str, way: &str| {
            vec![("channel", name.to_owned()), ("direction", way.to_owned())]
        };
        let frames = stats.frames().flat_map(|(name, frames)| {
            [(channel(name, "sent"), frames.sent), (channel(name, "received"), frames.received)]
        });
        self.counter("frames", "Frames by channel", frames);
        let bytes = stats.frames().flat_map(|(name, frames)| {
            let (sent, received) = (frames.sent_bytes, frames.received_bytes);
            [(channel(name, "sent"), sent), (channel(name, "received"), received)]
        });
        self.counter("frame_bytes", "Bytes of frames by channel", bytes);
        for (name, help, count) in [
            ("useful_bytes", "Bytes that came from peers and were new here", Count::UsefulBytes),
            ("connections", "Connections that came up", Count::Connections),
            ("compact_blocks", "Blocks rebuilt from a compact block", Count::CompactBlocks),
            ("fetched_blocks", "Blocks fetched whole, to catch up", Count::FetchedBlocks),
            ("block_items", "Items of blocks from peers", Count::BlockItems),
            ("block_items_lacked", "Those that were not in the pools", Count::BlockItemsLacked),
        ] {
            self.single_counter(name, help, stats.of(count));
        }
    }

    fn judged(&mut self, stats: &Stats) {
        for (name, help, count) in [
            ("verdicts", "Verdicts that were given", Count::Verdicts),
            ("late_verdicts", "Verdicts that came too late", Count::LateVerdicts),
            ("internal_errors", "Messages that could not be encoded: a bug", Count::Internal),
        ] {
            self.single_counter(name, help, stats.of(count));
        }
        let reports = REPORTS
            .iter()
            .map(|(report, name)| (vec![("report", (*name).to_owned())], stats.reports(*report)));
        self.counter("reports", "What became of what peers sent", reports);
        let refusals = REFUSALS.iter().flat_map(|(kind, name)| {
            [("us", true), ("them", false)].map(|(by, by_us)| {
                let labels = vec![("by", by.to_owned()), ("reason", (*name).to_owned())];
                (labels, stats.refused(by_us, *kind))
            })
        });
        self.counter("refusals", "Connections that were refused", refusals);
        let violations = stats.violations().map(|(violation, count): (Violation, u64)| {
            (vec![("code", violation.code().to_string()), ("what", violation.to_string())], count)
        });
        self.counter("violations", "Violations by peers", violations);
    }
}

fn owned(labels: &[(&'static str, &str)]) -> Labels {
    labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_that_is_preferred() {
        let wants = |accept: &str| wants_plain(accept.split(','));
        assert!(wants("text/plain; version=0.0.4") && wants("text/plain"));
        assert!(wants("application/openmetrics-text;q=0.2, text/plain;version=0.0.4;q=0.3"));
        assert!(!wants("*/*") && !wants_plain(std::iter::empty()) && !wants("application/json"));
        // As Prometheus does.
        let usual =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert!(!wants(&format!("{usual},*/*;q=0.2")));
    }

    #[test]
    fn the_plain_form_names_counters_with_their_ending() {
        let open = "# HELP a A.\n# TYPE a counter\na_total{b=\"c\"} 1\n# HELP g G.\n# TYPE g gauge\ng 2\n# EOF\n";
        let expected = "# HELP a_total A.\n# TYPE a_total counter\na_total{b=\"c\"} 1\n# HELP g G.\n# TYPE g gauge\ng 2\n";
        assert_eq!(plain(open), expected);
    }
}
