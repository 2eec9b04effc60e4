//! The node's latest events, numbered, as server-sent events. A listener that reconnects with the
//! number of the last event it has seen gets all later ones that are still kept, and is told how
//! many it has missed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::sse;
use futures_util::Stream;
use serde_json::{Value, json};
use tidegate::id::PoolIndex;
use tidegate::io::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Events kept for listeners that reconnect: some seconds of a busy node.
pub(crate) const KEPT: usize = 4096;
/// Concurrent listeners: each costs a connection; unread events are not copied for it.
pub(crate) const LISTENERS: usize = 16;
/// The interval of keep-alive comments on an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One event.
#[derive(Clone, Debug)]
struct Entry {
    name: &'static str,
    data: Arc<str>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The number of the first event that is kept.
    first: u64,
    entries: VecDeque<Entry>,
}

impl Kept {
    fn next(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

/// The latest events of a node.
#[derive(Debug)]
pub(crate) struct EventLog {
    /// Distinguishes numbers of this process from those of earlier ones.
    start: u64,
    pools: Vec<String>,
    kept: Mutex<Kept>,
    /// The number of the next event.
    news: watch::Sender<u64>,
    listeners: Arc<Semaphore>,
    syncing: AtomicBool,
}

impl EventLog {
    pub(crate) fn new(start: u64, pools: Vec<String>) -> Self {
        Self {
            start,
            pools,
            kept: Mutex::default(),
            news: watch::Sender::new(0),
            listeners: Arc::new(Semaphore::new(LISTENERS)),
            syncing: AtomicBool::new(false),
        }
    }

    /// Whether the node is catching up.
    pub(crate) fn syncing(&self) -> bool {
        self.syncing.load(Ordering::Relaxed)
    }

    /// Adds an event.
    pub(crate) fn push(&self, event: &Event) {
        match event {
            Event::SyncStarted { .. } => self.syncing.store(true, Ordering::Relaxed),
            Event::SyncEnded { .. } => self.syncing.store(false, Ordering::Relaxed),
            _ => {}
        }
        let (name, data) = self.describe(event);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entries.push_back(Entry { name, data: data.to_string().into() });
        if kept.entries.len() > KEPT {
            kept.entries.pop_front();
            kept.first += 1;
        }
        self.news.send_replace(kept.next());
    }

    fn describe(&self, event: &Event) -> (&'static str, Value) {
        let pool = |pool: &PoolIndex| self.pools.get(pool.0 as usize).cloned().unwrap_or_default();
        match event {
            Event::PeerConnected { peer, client, inbound } => {
                let data =
                    json!({ "peer": peer.to_string(), "client": client, "inbound": inbound });
                ("peer_connected", data)
            }
            Event::PeerDisconnected { peer, reason } => {
                let data = json!({ "peer": peer.to_string(), "reason": reason.to_string() });
                ("peer_disconnected", data)
            }
            Event::NotShared { peer, kind, name, reason } => {
                let what = super::model::not_shared(*kind, name);
                let data =
                    json!({ "peer": peer.to_string(), "what": what, "reason": reason.to_string() });
                ("not_shared", data)
            }
            Event::Refused { peer, by_us, refusal } => {
                let (peer, why) = (peer.to_string(), refusal.to_string());
                ("refused", json!({ "peer": peer, "by_us": by_us, "reason": why }))
            }
            Event::DialFailed { address, error } => {
                let address = tidegate::transport::from_core(address);
                let address = address.map(|address| address.to_string());
                ("dial_failed", json!({ "address": address, "error": error.to_string() }))
            }
            Event::ItemAdded { pool: index, id, .. } => {
                ("item_added", json!({ "pool": pool(index), "id": id.to_string() }))
            }
            Event::ItemRemoved { pool: index, id } => {
                ("item_removed", json!({ "pool": pool(index), "id": id.to_string() }))
            }
            Event::TipChanged { block, height } => {
                ("tip_changed", json!({ "block": block.to_string(), "height": height }))
            }
            Event::UnknownTip { block } => ("unknown_tip", json!({ "block": block.to_string() })),
            Event::SyncStarted { from, to } => ("sync_started", json!({ "from": from, "to": to })),
            Event::SyncEnded { from, at } => ("sync_ended", json!({ "from": from, "at": at })),
            Event::Lagged(count) => ("missed", json!({ "count": count })),
            // A future kind of event: its debug output is better than nothing.
            other => ("other", json!({ "event": format!("{other:?}") })),
        }
    }

    /// The stream of one listener, after the last event that it has seen (`None`: from now on).
    /// `None` if there are too many listeners.
    pub(crate) fn listen(self: &Arc<Self>, last: Option<&str>) -> Option<EventStream> {
        let place = self.listeners.clone().try_acquire_owned().ok()?;
        let now = self.kept.lock().unwrap_or_else(PoisonError::into_inner).next();
        // An invalid id, or one of another process, does not tell what was missed.
        let seen = last.map(|last| self.parse(last).filter(|seen| *seen < now));
        let (next, unknown) = match seen {
            None => (now, false),
            Some(Some(seen)) => (seen + 1, false),
            Some(None) => (0, true),
        };
        let listener = Listener {
            log: self.clone(),
            news: self.news.subscribe(),
            next,
            unknown,
            _place: place,
        };
        let stream: EventStream = Box::pin(futures_util::stream::unfold(listener, Listener::step));
        Some(stream)
    }

    fn parse(&self, id: &str) -> Option<u64> {
        let (start, number) = id.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        number.parse().ok().filter(|_| start == self.start)
    }

    fn id(&self, number: u64) -> String {
        format!("{:x}-{number}", self.start)
    }
}

pub(crate) type EventStream =
    std::pin::Pin<Box<dyn Stream<Item = Result<sse::Event, Infallible>> + Send>>;

/// One listener.
struct Listener {
    log: Arc<EventLog>,
    news: watch::Receiver<u64>,
    next: u64,
    /// It was connected to an earlier process: what it has missed is unknown.
    unknown: bool,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    async fn step(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.take() {
                return Some((Ok(event), self));
            }
            // The log holds the sender, so the channel stays open.
            self.news.changed().await.ok()?;
        }
    }

    fn take(&mut self) -> Option<sse::Event> {
        // Before reading the log, so that no event is missed in between.
        self.news.borrow_and_update();
        let log = self.log.clone();
        let kept = log.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut self.unknown) {
            self.next = kept.first;
            let data = json!({ "count": null }).to_string();
            return Some(sse::Event::default().event("missed").data(data));
        }
        if self.next < kept.first {
            let count = kept.first - self.next;
            self.next = kept.first;
            let id = log.id(kept.first - 1);
            let data = json!({ "count": count }).to_string();
            return Some(sse::Event::default().event("missed").id(id).data(data));
        }
        let entry = kept.entries.get((self.next - kept.first) as usize)?;
        let event = sse::Event::default().event(entry.name).id(log.id(self.next));
        self.next += 1;
        Some(event.data(&entry.data))
    }
}

/// Keeps an idle stream open.
pub(crate) fn keep_alive() -> sse::KeepAlive {
    sse::KeepAlive::new().interval(KEEP_ALIVE)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn log() -> Arc<EventLog> {
        Arc::new(EventLog::new(0xab, vec!["notes".into()]))
    }

    fn tip(height: u64) -> Event {
        Event::TipChanged { block: tidegate::id::BlockId([7; 32]), height }
    }

    /// The next event as it is written, if it is there already.
    async fn next(stream: &mut EventStream) -> String {
        let event = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
        format!("{:?}", event.expect("an event").expect("no end").expect("never an error"))
    }

    #[tokio::test]
    async fn resumed_listeners_miss_no_event() {
        let log = log();
        let mut first = log.listen(None).unwrap();
        log.push(&tip(1));
        assert!(next(&mut first).await.contains("id: ab-0"));
        drop(first);
        log.push(&tip(2));
        log.push(&tip(3));
        let mut again = log.listen(Some("ab-0")).unwrap();
        for (id, height) in [("ab-1", 2), ("ab-2", 3)] {
            let event = next(&mut again).await;
            assert!(event.contains(id) && event.contains(&format!("\\\"height\\\":{height}")));
        }
    }

    #[tokio::test]
    async fn late_listeners_are_told_how_many_events_they_missed() {
        let log = log();
        for height in 0..KEPT as u64 + 10 {
            log.push(&tip(height));
        }
        let mut late = log.listen(Some("ab-3")).unwrap();
        let missed = next(&mut late).await;
        assert!(missed.contains("missed") && missed.contains("\\\"count\\\":6"), "{missed}");
        assert!(next(&mut late).await.contains("id: ab-10\\n"));
        // One past the limit, and at it.
        let mut at = log.listen(Some("ab-9")).unwrap();
        assert!(next(&mut at).await.contains("id: ab-10\\n"));
    }

    #[tokio::test]
    async fn event_ids_of_another_process_are_not_resumed() {
        let log = log();
        log.push(&tip(5));
        for last in ["ac-0", "nonsense", "ab-7", ""] {
            let mut stream = log.listen(Some(last)).unwrap();
            let missed = next(&mut stream).await;
            assert!(missed.contains("missed") && missed.contains("null"), "{missed}");
            assert!(next(&mut stream).await.contains("id: ab-0"));
        }
    }

    #[tokio::test]
    async fn listeners_are_bounded() {
        let log = log();
        let mut all = (0..LISTENERS).map(|_| log.listen(None).unwrap()).collect::<Vec<_>>();
        assert!(log.listen(None).is_none());
        all.pop();
        assert!(log.listen(None).is_some());
    }
}
