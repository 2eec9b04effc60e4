//! `tidegate top`: the live view of a running node.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Table};

use crate::api::model::{Peers, Status};
use crate::ask::At;
use crate::client::Client;

/// How often the node is queried.
const EVERY: Duration = Duration::from_secs(1);
/// Tips that are shown.
const TIPS: usize = 4;
/// Lines of the header, and the least for the peers.
const HEAD: u16 = 6;
const PEERS: u16 = 4;
/// Columns of a PeerId, and of one that is shortened.
const FULL: u16 = 52;
const SHORT: u16 = 18;
/// How long a signal may take to be noticed.
const NOTICE: Duration = Duration::from_millis(100);

/// Which node, and how often it is asked.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    at: At,
}

/// The node's answers at one time.
struct Sample {
    at: Instant,
    status: Status,
    peers: Peers,
}

impl Sample {
    fn take(client: &mut Client) -> anyhow::Result<Self> {
        let (status, peers) = (client.get("/v1/status")?, client.get("/v1/peers")?);
        Ok(Self { at: Instant::now(), status, peers })
    }
}

/// The state of the view.
struct View {
    now: Sample,
    before: Option<Sample>,
    /// Heights and ids of the last tips, the newest first.
    tips: VecDeque<(u64, String)>,
}

impl View {
    fn new(first: Sample) -> Self {
        let mut view = Self { now: first, before: None, tips: VecDeque::new() };
        view.note_tip();
        view
    }

    fn update(&mut self, sample: Sample) {
        self.before = Some(std::mem::replace(&mut self.now, sample));
        self.note_tip();
    }

    fn note_tip(&mut self) {
        let Some(tip) = &self.now.status.tip else { return };
        if self.tips.front().is_none_or(|(_, known)| known != tip) {
            self.tips.push_front((self.now.status.height, tip.clone()));
            self.tips.truncate(TIPS);
        }
    }

    /// The growth of a counter per second.
    fn rate(&self, counter: impl Fn(&Status) -> u64) -> f64 {
        let Some(before) = &self.before else { return 0.0 };
        let grown = counter(&self.now.status).saturating_sub(counter(&before.status));
        let seconds = self.now.at.duration_since(before.at).as_secs_f64();
        if seconds > 0.0 { grown as f64 / seconds } else { 0.0 }
    }

    /// On a small terminal the list of blocks shrinks first, then that of the pools.
    fn draw(&self, frame: &mut Frame<'_>) {
        let pools = self.now.status.pools.len() as u16 + 3;
        let tips = TIPS as u16 + 2;
        let left = frame.area().height.saturating_sub(HEAD + PEERS);
        let shown_pools = if pools <= left { pools } else { 0 };
        let shown_tips = if shown_pools + tips <= left { tips } else { 0 };
        let heights = [HEAD, shown_pools, shown_tips].map(Constraint::Length);
        let heights = [heights[0], heights[1], heights[2], Constraint::Fill(1)];
        let [head, pools, tips, peers] = Layout::vertical(heights).areas(frame.area());
        self.draw_head(frame, head);
        self.draw_pools(frame, pools);
        self.draw_tips(frame, tips);
        self.draw_peers(frame, peers);
    }

    fn draw_head(&self, frame: &mut Frame<'_>, area: Rect) {
        let status = &self.now.status;
        let syncing = if status.syncing { ", catching up" } else { "" };
        let price = match status.useful_bytes {
            0 => "–".to_owned(),
            useful => format!("{:.2}", status.bytes_received as f64 / useful as f64),
        };
        let text = vec![
            Line::from(format!("node     {}", status.peer_id)),
            Line::from(format!(
                "height   {}{syncing}   up {}   {} peers, {} known, {} refused",
                status.height,
                time(status.uptime),
                status.peers,
                status.known_peers,
                status.banned_peers
            )),
            Line::from(format!(
                "traffic  {}/s sent, {}/s received, {price} bytes received per useful byte",
                bytes(self.rate(|status| status.bytes_sent)),
                bytes(self.rate(|status| status.bytes_received)),
            )),
            Line::from(format!(
                "waiting  {} verdicts, {} to the disk",
                status.pending_verdicts,
                bytes(status.store_backlog as f64)
            )),
        ];
        let block = Block::bordered().title(format!(" {} · q quits ", status.network));
        frame.render_widget(Paragraph::new(text).block(block), area);
    }

    fn draw_pools(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.now.status.pools.iter().map(|pool| {
            Row::new([
                pool.name.clone(),
                pool.items.to_string(),
                bytes(pool.bytes as f64),
                pool.permits_given.to_string(),
                pool.permits_spent.to_string(),
            ])
        });
        let widths = if area.width < 72 { [12, 6, 10, 13, 13] } else { [16, 8, 12, 14, 14] };
        let widths = widths.map(Constraint::Length);
        let header = ["pool", "items", "bytes", "permits given", "permits spent"];
        table(frame, area, " pools ", Table::new(rows, widths), header);
    }

    fn draw_tips(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines = self.tips.iter().map(|(height, id)| Line::from(format!("{height:>8}  {id}")));
        let block = Block::bordered().title(" blocks ");
        frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
    }

    fn draw_peers(&self, frame: &mut Frame<'_>, area: Rect) {
        // With the columns beside it, the spaces in between, and the borders.
        let short = area.width < FULL + 4 + 7 + 8 + 10 + 8 + 6 + 6 + 20 + 8 + 2;
        let rows = self.now.peers.connected.iter().map(|peer| {
            let permits = |of: fn(&crate::api::model::Permits) -> usize| {
                peer.permits.iter().map(of).sum::<usize>().to_string()
            };
            Row::new([
                if short { shortened(&peer.peer) } else { peer.peer.clone() },
                if peer.inbound { "in" } else { "out" }.to_owned(),
                peer.over(),
                peer.height.to_string(),
                peer.round_trip(),
                time(peer.connected_for),
                permits(|permits| permits.given),
                permits(|permits| permits.spent),
                peer.client.clone(),
            ])
        });
        let widths =
            if short { [SHORT, 3, 6, 6, 7, 6, 5, 5, 0] } else { [FULL, 4, 7, 8, 10, 8, 6, 6, 20] };
        let widths = widths.map(|width| match width {
            0 => Constraint::Fill(1),
            width => Constraint::Length(width),
        });
        let header = ["peer", "", "over", "height", "trip", "for", "given", "spent", "client"];
        table(frame, area, " peers ", Table::new(rows, widths), header);
    }
}

fn table<const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    title: &'static str,
    table: Table<'_>,
    header: [&'static str; N],
) {
    let header = Row::new(header).style(Style::new().add_modifier(Modifier::BOLD));
    frame.render_widget(table.header(header).block(Block::bordered().title(title)), area);
}

/// The beginning and the end of a long name, with a mark for what is left out.
fn shortened(name: &str) -> String {
    let letters = name.chars().collect::<Vec<_>>();
    let half = usize::from(SHORT) / 2;
    if letters.len() <= usize::from(SHORT) {
        return name.to_owned();
    }
    let (begin, end) = (&letters[..half - 1], &letters[letters.len() - half..]);
    format!("{}…{}", begin.iter().collect::<String>(), end.iter().collect::<String>())
}

/// Bytes for people to read.
fn bytes(count: f64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    match units.into_iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", count / size),
        None => format!("{count:.0} B"),
    }
}

/// Seconds for people to read.
fn time(seconds: f64) -> String {
    match seconds as u64 {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min", seconds / 60),
        seconds @ 3600..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// Shows the node until the user quits.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    ensure!(terminal, "top needs a terminal: `tidegate status --json` tells the same once");
    let mut client = arguments.at.connect()?;
    let mut view = View::new(Sample::take(&mut client)?);
    let told = told_to_stop()?;
    let mut terminal = ratatui::try_init().context("the terminal")?;
    let result = (|| {
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            let due = view.now.at + EVERY;
            if quits(due.min(Instant::now() + NOTICE))? || told.load(Ordering::Relaxed) {
                return Ok(true);
            }
            if Instant::now() >= due {
                view.update(Sample::take(&mut client)?);
            }
        }
    })();
    ratatui::restore();
    result
}

/// Set to `true` when the process is to stop, so that the terminal can be restored first.
fn told_to_stop() -> anyhow::Result<Arc<AtomicBool>> {
    let told = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let tells = told.clone();
    let (ready, waits) = std::sync::mpsc::channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            let signals = crate::run::Signals::new();
            let failed = signals.as_ref().err().map(ToString::to_string);
            // It is awaited.
            let _ = ready.send(failed);
            if let Ok(mut signals) = signals {
                signals.next().await;
                tells.store(true, Ordering::Relaxed);
            }
        });
    })?;
    match waits.recv()? {
        Some(error) => bail!("signals: {error}"),
        None => Ok(told),
    }
}

/// Whether the user wants to quit; waits for a key or a timeout.
fn quits(until: Instant) -> anyhow::Result<bool> {
    if !event::poll(until.saturating_duration_since(Instant::now()))? {
        return Ok(false);
    }
    let Event::Key(key) = event::read()? else { return Ok(false) };
    let interrupt = key.code == KeyCode::Char('c') && key.modifiers == KeyModifiers::CONTROL;
    let quit = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc);
    Ok(key.kind == KeyEventKind::Press && (quit || interrupt))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::api::model::{Peer, Permits, Pool};

    fn sample(height: u64, received: u64, at: Instant) -> Sample {
        let pool = |name: &str| Pool {
            name: name.into(),
            items: 12,
            bytes: 3456,
            permits_given: 5,
            permits_spent: 6,
        };
        let permits = Permits { pool: "transfers".into(), given: 3, spent: 4 };
        let peer = Peer {
            peer: "12D3KooWPeer".into(),
            client: "tidegate/0.1.0".into(),
            inbound: true,
            transport: "quic".into(),
            address: "/ip4/192.0.2.1/udp/4001/quic-v1".into(),
            direct: true,
            connected_for: 7300.0,
            round_trip_ms: Some(1.25),
            height,
            channels: Vec::new(),
            permits: vec![permits],
            not_shared: Vec::new(),
        };
        let status = Status {
            peer_id: "12D3KooWNode".into(),
            client: "tidegate/0.1.0".into(),
            network: "shore".into(),
            network_id: "5a".repeat(32),
            addresses: Vec::new(),
            own_addresses: Vec::new(),
            uptime: 61.0,
            height,
            tip: Some(format!("{height:064x}")),
            syncing: height == 1,
            peers: 1,
            known_peers: 9,
            met_peers: 2,
            banned_peers: 0,
            pending_verdicts: 3,
            store_backlog: 2048,
            bytes_sent: 10,
            bytes_received: received,
            useful_bytes: received / 2,
            pools: vec![pool("transfers"), pool("works")],
        };
        Sample { at, status, peers: Peers { connected: vec![peer], banned: Vec::new() } }
    }

    #[test]
    fn the_screen_shows_every_figure() {
        let start = Instant::now();
        let mut view = View::new(sample(1, 0, start));
        let mut terminal = Terminal::new(TestBackend::new(130, 30)).unwrap();
        let mut screen = |view: &View| {
            terminal.draw(|frame| view.draw(frame)).unwrap();
            terminal.backend().to_string()
        };
        let first = screen(&view);
        assert!(first.contains("– bytes received per useful byte"), "{first}");
        assert!(first.contains("catching up"), "{first}");
        view.update(sample(2, 5_000_000, start + Duration::from_secs(2)));
        let second = screen(&view);
        for part in [
            "shore",
            "12D3KooWNode",
            "height   2   up 1 min   1 peers, 9 known, 0 refused",
            "0 B/s sent, 2.5 MB/s received, 2.00 bytes received per useful byte",
            "3 verdicts, 2.0 kB to the disk",
            "transfers        12       3.5 kB       5              6",
            "       2  0000",
            "       1  0000",
            "12D3KooWPeer",
            "1.2 ms",
            "2 h",
        ] {
            assert!(second.contains(part), "{part}\n{second}");
        }
        // A small terminal shows less, and marks what is left out.
        view.now.peers.connected[0].peer =
            "12D3KooWRiTz8EgoHHEqdtzvmfC3R9iu9LUUMtzdbqnUg9XeZSWG".into();
        let shows = |width, height| {
            let mut small = Terminal::new(TestBackend::new(width, height)).unwrap();
            small.draw(|frame| view.draw(frame)).unwrap();
            small.backend().to_string()
        };
        let narrow = shows(120, 30);
        assert!(narrow.contains("12D3KooW…Ug9XeZSWG") && narrow.contains("2 h"), "{narrow}");
        let short = shows(60, 10);
        assert!(short.contains("height   2") && short.contains("12D3KooW…"), "{short}");
        let middle = shows(60, 16);
        assert!(middle.contains("transfers"), "{middle}");
        shows(20, 5);
        shows(1, 1);
    }
}
