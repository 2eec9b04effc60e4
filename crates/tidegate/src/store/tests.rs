//! The store: what can be read back, whatever happens to the machine.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use proptest::prelude::*;
use redb::backends::InMemoryBackend;
use tidegate_proto::id::ItemId;
use tidegate_proto::rules::Plain;
use tidegate_proto::wire::{BodyGroup, Encode as _, ItemBody};

use super::*;
use crate::driver::Message;

const NETWORK: NetworkId = NetworkId([7; 32]);
const GENESIS: BlockId = BlockId([0; 32]);

fn rules() -> Plain {
    Plain::new("test")
}

fn pools() -> Vec<String> {
    vec!["a".to_owned(), "b".to_owned()]
}

fn in_memory() -> Store {
    Store::on_backend(InMemoryBackend::new(), NETWORK, b"genesis", pools()).unwrap()
}

fn id(height: u64, fork: u8) -> BlockId {
    if height == 0 {
        return GENESIS;
    }
    BlockId(*blake3::hash(&[&height.to_be_bytes()[..], &[fork]].concat()).as_bytes())
}

fn body(height: u64, fork: u8) -> Bytes {
    let item = ItemBody(vec![fork; 10 + height as usize % 50].into());
    let groups = vec![BodyGroup { pool: "b".to_owned(), items: vec![item] }];
    BlockBody { groups }.to_bytes().unwrap()
}

fn header(height: u64, fork: u8) -> Bytes {
    format!("header {height} {fork}").into_bytes().into()
}

/// A block of a fork, whose parent is of that fork or another.
fn block(height: u64, fork: u8, parent: u8) -> Write {
    Write::Block {
        block: id(height, fork),
        parent: id(height - 1, parent),
        height,
        header: header(height, fork),
        body: body(height, fork),
    }
}

fn tip(height: u64, fork: u8) -> Write {
    let key = Bytes::from_static(b"tip");
    let value = Bytes::from(vec![fork, height as u8]);
    Write::Tip { block: id(height, fork), height, state: vec![(key, Some(value))] }
}

fn heights(saved: &Saved) -> Vec<Bytes> {
    saved.blocks.iter().map(|block| block.header.clone()).collect()
}

fn loaded(store: &Store, locator: &[BlockId], most: u32) -> Found {
    store.load(&Load::Headers { locator: locator.to_vec(), most }).unwrap()
}

#[test]
fn blocks_come_back_and_those_beside_the_chain_go() {
    let store = in_memory();
    assert!(store.saved(&rules()).unwrap().blocks.is_empty());
    for height in 1..=200 {
        // A second block at some heights.
        if height % 10 == 0 {
            store.keep(&[block(height, 2, 1)], None).unwrap();
        }
        store.keep(&[block(height, 1, 1), tip(height, 1)], None).unwrap();
    }
    let saved = store.saved(&rules()).unwrap();
    let expected = (200 - 128..=200).map(|height| header(height, 1)).collect::<Vec<_>>();
    assert_eq!(heights(&saved), expected);
    let items = |n: usize| &saved.blocks[n].items;
    assert!(items(64).is_empty() && items(65).len() == 1, "64 have their items");
    assert_eq!(items(128)[0].pool, PoolIndex(1));
    assert_eq!(store.headers(64).unwrap(), expected[64..]);
    assert_eq!(store.load(&Load::Block(id(1, 1))).unwrap(), Found::Block(body(1, 1)));
    assert_eq!(store.load(&Load::Block(id(130, 2))).unwrap(), Found::Nothing);
    assert_eq!(store.load(&Load::Block(id(140, 2))).unwrap(), Found::Block(body(140, 2)));
    // Headers after the first block of the locator that is on the chain; the genesis is.
    let after = |from: u64, count: u64| {
        Found::Headers((from..from + count).map(|height| header(height, 1)).collect())
    };
    assert_eq!(loaded(&store, &[id(190, 2), id(150, 1)], 10), after(151, 10));
    assert_eq!(loaded(&store, &[GENESIS], 3), after(1, 3));
    assert_eq!(loaded(&store, &[id(200, 1)], 3), after(201, 0));
    assert_eq!(loaded(&store, &[BlockId([9; 32])], 3), Found::Nothing);
}

#[test]
fn the_chain_follows_the_tip() {
    let store = in_memory();
    for height in 1..=20 {
        store.keep(&[block(height, 1, 1), tip(height, 1)], None).unwrap();
    }
    // A fork at 15, first shorter, then longer; the tip moves there and back.
    for height in 16..=22 {
        store.keep(&[block(height, 2, if height == 16 { 1 } else { 2 })], None).unwrap();
    }
    store.keep(&[tip(22, 2)], None).unwrap();
    let fork = |height| u8::from(height > 15) + 1;
    let expected = (1..=22).map(|height| header(height, fork(height))).collect::<Vec<_>>();
    assert_eq!(heights(&store.saved(&rules()).unwrap()), expected);
    assert_eq!(store.saved(&rules()).unwrap().state[0].1[..], [2, 22]);
    store.keep(&[tip(20, 1)], None).unwrap();
    let expected = (1..=20).map(|height| header(height, 1)).collect::<Vec<_>>();
    assert_eq!(heights(&store.saved(&rules()).unwrap()), expected);
}

#[test]
fn items_and_the_book_come_back() {
    let store = in_memory();
    let item = |n: u8| {
        let body = Bytes::from(vec![n; 20]);
        Write::Item { pool: PoolIndex(1), id: ItemId([n; 32]), body }
    };
    let forget = Write::Forget { pool: PoolIndex(1), id: ItemId([1; 32]) };
    store.keep(&[item(1), item(2), item(2), forget], None).unwrap();
    assert_eq!(store.published().unwrap(), [(PoolIndex(1), Bytes::from(vec![2; 20]))]);
    assert_eq!(store.book().unwrap(), PeerBook::default());
    let mut book = PeerBook::default();
    book.key = Some([4; 16]);
    store.keep(&[], Some(&book)).unwrap();
    assert_eq!(store.book().unwrap(), book);
    let number = |now| store.record_sequence(now).unwrap();
    assert_eq!([number(5_000_000), number(6_000_000)], [5_000_000, 6_000_000]);
    assert_eq!(number(7), 6_000_000 + RECORDS, "the clock has gone back");
}

fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

/// Opens a store that must be refused, without changing it; returns the reason.
fn refused(folder: &Path, network: NetworkId, genesis: &[u8]) -> String {
    let before = files(folder);
    let error = Store::open(folder, network, genesis, pools()).unwrap_err();
    assert_eq!(files(folder), before, "untouched");
    let text = error.to_string();
    assert!(!text.contains('\n'));
    text
}

#[test]
fn the_store_of_another_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("data");
    let store = Store::open(&folder, NETWORK, b"genesis", pools()).unwrap();
    store.keep(&[block(1, 1, 1), tip(1, 1)], None).unwrap();
    let in_use = Store::open(&folder, NETWORK, b"genesis", pools()).unwrap_err();
    assert!(in_use.to_string().contains("another process"), "{in_use}");
    drop(store);
    assert!(refused(&folder, NetworkId([8; 32]), b"genesis").contains("another network"));
    assert!(refused(&folder, NETWORK, b"other").contains("another genesis"));
    // The note and the file belong together.
    let note = folder.join("store.note");
    let text = std::fs::read_to_string(&note).unwrap();
    std::fs::write(&note, text.replace("schema 2", "schema 3\nwhatever")).unwrap();
    assert!(refused(&folder, NETWORK, b"genesis").contains("newer version"));
    std::fs::write(&note, text.replace("schema 2", "schema 1")).unwrap();
    let older = refused(&folder, NETWORK, b"genesis");
    assert!(older.contains("of schema 1") && older.contains("start anew"), "{older}");
    std::fs::write(&note, "junk").unwrap();
    assert!(refused(&folder, NETWORK, b"genesis").contains("not a store that can be read"));
    std::fs::remove_file(&note).unwrap();
    assert!(refused(&folder, NETWORK, b"genesis").contains("store.note is missing"));
    std::fs::write(&note, &text).unwrap();
    assert_eq!(
        Store::open(&folder, NETWORK, b"genesis", pools()).unwrap().headers(9).unwrap().len(),
        1
    );
    // An incomplete one is created again.
    std::fs::rename(folder.join("store.redb"), folder.join("store.new")).unwrap();
    let anew = Store::open(&folder, NETWORK, b"genesis", pools()).unwrap();
    assert!(anew.headers(9).unwrap().is_empty() && !folder.join("store.new").exists());
    drop(anew);
    // A file that is not a store.
    std::fs::write(folder.join("store.redb"), "no database at all, whatever its length").unwrap();
    assert!(refused(&folder, NETWORK, b"genesis").contains("not a store that can be read"));
}

/// A disk that loses writes: those that were not synced are lost, in whole or in part, when the
/// power fails.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Content>>);

#[derive(Clone, Debug, Default)]
struct Content {
    /// The content as it is read.
    now: Vec<u8>,
    /// The content that is certainly on the disk.
    synced: Vec<u8>,
    /// Operations since the last sync.
    pending: Vec<Op>,
    /// Operations until the power fails.
    left: Option<u64>,
    ops: u64,
}

#[derive(Clone, Debug)]
enum Op {
    Length(u64),
    Write(u64, Vec<u8>),
}

fn apply(content: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Length(length) => content.resize(*length as usize, 0),
        Op::Write(at, data) => {
            let end = *at as usize + data.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*at as usize..end].copy_from_slice(data);
        }
    }
}

impl Disk {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    fn step(&self) -> io::Result<MutexGuard<'_, Content>> {
        let mut content = self.content();
        content.ops += 1;
        match &mut content.left {
            Some(0) => return Err(io::Error::other("no power")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(content)
    }

    /// The disk after a power failure: each 512 bytes of the writes that were not synced are there
    /// or not.
    fn after_crash(&self, seed: u64) -> Self {
        let content = self.content();
        let mut survived = content.synced.clone();
        let mut random = blake3::Hasher::new().update(&seed.to_be_bytes()).finalize_xof();
        let mut coin = || {
            let mut byte = [0];
            random.fill(&mut byte);
            byte[0] < 128
        };
        for op in &content.pending {
            match op {
                Op::Length(_) => {
                    if coin() {
                        apply(&mut survived, op);
                    }
                }
                Op::Write(at, data) => {
                    for (n, sector) in data.chunks(512).enumerate() {
                        if coin() {
                            apply(&mut survived, &Op::Write(at + n as u64 * 512, sector.to_vec()));
                        }
                    }
                }
            }
        }
        let content = Content { now: survived.clone(), synced: survived, ..Content::default() };
        Self(Arc::new(Mutex::new(content)))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.step()?.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let content = self.step()?;
        let range = offset as usize..offset as usize + out.len();
        let data = content.now.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = self.step()?;
        apply(&mut content.now, &Op::Length(len));
        content.pending.push(Op::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut content = self.step()?;
        content.synced = content.now.clone();
        content.pending.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut content = self.step()?;
        let op = Op::Write(offset, data.to_vec());
        apply(&mut content.now, &op);
        content.pending.push(op);
        Ok(())
    }
}

/// The writes of a node for one block: a published item, the block, the tip.
fn round(height: u64) -> [Write; 3] {
    let body = Bytes::from(height.to_be_bytes().to_vec());
    let item = Write::Item { pool: PoolIndex(0), id: rules().item_id("a", &body), body };
    [item, block(height, 1, 1), tip(height, 1)]
}

/// Writes blocks until the power fails; returns how many were reported as durable.
fn keep_until_crash(disk: &Disk, from: u64) -> u64 {
    let Ok(store) = Store::on_backend(disk.clone(), NETWORK, b"genesis", pools()) else {
        return from;
    };
    for height in from + 1..from + 60 {
        if store.keep(&round(height), None).is_err() {
            return height - 1;
        }
    }
    from + 59
}

/// What was reported as durable is there, and nothing is there in part.
fn check_after_crash(disk: &Disk, durable: u64) -> u64 {
    let store = Store::on_backend(disk.clone(), NETWORK, b"genesis", pools()).unwrap();
    let saved = store.saved(&rules()).unwrap();
    let tip = saved.blocks.last().map_or(0, |block| {
        let text = String::from_utf8(block.header.to_vec()).unwrap();
        text.split(' ').nth(1).unwrap().parse().unwrap()
    });
    // The transaction in progress may have succeeded.
    assert!(tip == durable || tip == durable + 1, "{tip} of {durable}");
    let published = store.published().unwrap().len() as u64;
    assert_eq!(published, tip, "an item, its block and the tip go together");
    if tip > 0 {
        assert_eq!(saved.state[0].1[..], [1, tip as u8]);
    }
    for height in 1..=tip {
        assert_eq!(store.load(&Load::Block(id(height, 1))).unwrap(), Found::Block(body(height, 1)));
    }
    tip
}

/// At 200 points of the same run, and again during the recovery.
#[test]
fn durable_data_survives_power_failures() {
    let new = || {
        let disk = Disk::default();
        drop(Store::on_backend(disk.clone(), NETWORK, b"genesis", pools()).unwrap());
        disk.content().ops = 0;
        disk
    };
    let whole = new();
    keep_until_crash(&whole, 0);
    let ops = whole.content().ops;
    for point in 0..200u64 {
        let disk = new();
        disk.content().left = Some(ops * (point + 1) / 201);
        let durable = keep_until_crash(&disk, 0);
        let disk = disk.after_crash(point);
        let tip = check_after_crash(&disk, durable);
        // The next failure comes soon, perhaps during the recovery.
        let disk = disk.after_crash(0);
        disk.content().left = Some(point * 3);
        let durable = keep_until_crash(&disk, tip);
        check_after_crash(&disk.after_crash(point + 1000), durable);
    }
}

proptest! {
    /// However the tip moves within a tree of blocks, reading gives the path to the last one.
    #[test]
    fn the_chain_is_the_path_to_the_tip(moves in prop::collection::vec((0..6u64, 1..4u8), 1..30)) {
        let store = in_memory();
        let mut made = BTreeMap::from([((0u64, 0u8), None)]);
        let mut at = (0, 0);
        for (back, fork) in moves {
            for _ in 0..back {
                at = made[&at].unwrap_or(at);
            }
            let next = (at.0 + 1, fork + (at.0 as u8 % 5) * 4);
            if made.insert(next, Some(at)).is_none() {
                store.keep(&[block(next.0, next.1, at.1)], None).unwrap();
            } else {
                made.insert(next, Some(at));
                store.keep(&[block(next.0, next.1, at.1)], None).unwrap();
            }
            at = next;
            store.keep(&[tip(at.0, at.1)], None).unwrap();
            let mut path = Vec::new();
            let mut step = at;
            while step.0 > 0 {
                path.push(header(step.0, step.1));
                step = made[&step].unwrap();
            }
            path.reverse();
            prop_assert_eq!(heights(&store.saved(&rules()).unwrap()), path);
        }
    }
}

fn one() -> [String; 1] {
    ["a".to_owned()]
}

/// Regression: a store of another network was used without an error: its items came into the pools
/// of this one.
#[tokio::test]
async fn a_store_must_be_for_the_node() {
    let (net, other) = (NETWORK, NetworkId([9; 32]));
    let refused = |network, genesis: &'static [u8], pools: &[&str]| {
        let pools = pools.iter().map(|name| (*name).to_owned());
        let store = Store::on_backend(InMemoryBackend::new(), network, genesis, pools).unwrap();
        let mut builder = crate::Builder::new(NETWORK, rules(), crate::accept_all);
        for name in ["a", "b"] {
            builder = builder.pool(tidegate_proto::PoolSpec::new(name));
        }
        builder.store(store).without_quic().start().map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(refused(net, b"", &["a", "b"]), Ok(()));
    for (refused, what) in [
        (refused(other, b"", &["a", "b"]), "another network"),
        (refused(net, b"genesis", &["a", "b"]), "another genesis"),
        (refused(net, b"", &["b", "a"]), "another list of pools"),
        (refused(net, b"", &["a"]), "another list of pools"),
    ] {
        assert!(refused.unwrap_err().contains(what), "{what}");
    }
}

/// A disk that fails while the node runs: the node stops, tells why, and everything it has reported
/// is there.
#[tokio::test]
async fn a_node_stops_when_its_store_fails() {
    use tidegate_proto::io::{Admission, Event, Fate};

    let disk = Disk::default();
    let store = Store::on_backend(disk.clone(), NETWORK, b"", one()).unwrap();
    let accept = |_, answer: crate::Answer| answer.accept(Admission::default());
    let builder = crate::Builder::new(NETWORK, rules(), accept);
    let builder = builder.pool(tidegate_proto::PoolSpec::new("a")).store(store).without_quic();
    let (node, mut events) = builder.start().unwrap();
    let publish = |n: u8| node.publish(PoolIndex(0), vec![n; 20], Admission::default());
    for n in 0..5 {
        assert_eq!(publish(n).unwrap().await, Ok(Fate::Accepted));
    }
    assert!(node.failure().is_none());
    disk.content().left = Some(0);
    let lost = publish(5).unwrap();
    assert_eq!(lost.await, Err(crate::NodeError::Closed), "nobody says that it was accepted");
    while let Some(event) = events.next().await {
        assert!(matches!(event, Event::ItemAdded { .. }), "{event:?}");
    }
    let failure = node.failure().expect("it says why").to_string();
    assert!(failure.contains("no power"), "{failure}");
    let disk = disk.after_crash(1);
    let store = Store::on_backend(disk, NETWORK, b"", one()).unwrap();
    assert_eq!(store.published().unwrap().len(), 5);
}

/// Published items are published again after a restart; those that are not executable at present
/// are kept all the same.
#[tokio::test]
async fn own_items_are_offered_again() {
    use tidegate_proto::io::{Admission, Subject};

    let disk = Disk::default();
    let store = || Store::on_backend(disk.clone(), NETWORK, b"", one()).unwrap();
    let start = |good: fn(&[u8]) -> bool| {
        let judge = move |subject: Subject, answer: crate::Answer| match subject {
            Subject::Item { body, .. } if good(&body) => answer.accept(Admission::default()),
            _ => answer.ignore(),
        };
        let builder = crate::Builder::new(NETWORK, rules(), judge);
        let builder = builder.pool(tidegate_proto::PoolSpec::new("a")).store(store());
        builder.without_quic().start().unwrap()
    };
    let (node, _events) = start(|_| true);
    for n in 0..10u8 {
        let published = node.publish(PoolIndex(0), vec![n; 20], Admission::default()).unwrap();
        published.await.unwrap();
    }
    node.shutdown().await;
    drop(node);
    let (node, mut events) = start(|body| body[0] % 2 == 0);
    for _ in 0..5 {
        events.next().await.unwrap();
    }
    assert_eq!(node.pool_ids(PoolIndex(0)).await.unwrap().len(), 5);
    node.shutdown().await;
    drop((node, events));
    // They may be in a block that a re-org undoes.
    assert_eq!(store().published().unwrap().len(), 10);
}

/// After a node's shutdown its store is closed, and can be opened again at once.
#[tokio::test]
async fn the_next_node_opens_the_store_at_once() {
    let disk = Disk::default();
    for round in 0..50u8 {
        let store = Store::on_backend(disk.clone(), NETWORK, b"", one()).unwrap();
        assert_eq!(store.published().unwrap().len(), usize::from(round));
        let builder = crate::Builder::new(NETWORK, rules(), crate::accept_all);
        let builder = builder.pool(tidegate_proto::PoolSpec::new("a")).store(store);
        let (node, _events) = builder.without_quic().start().unwrap();
        node.publish(PoolIndex(0), vec![round; 20], crate::io::Admission::default()).unwrap();
        node.shutdown().await;
        assert_eq!(Arc::strong_count(&disk.0), 1, "still open in round {round}");
    }
}

/// A disk whose code panics once.
#[derive(Debug)]
struct Panicking {
    inner: InMemoryBackend,
    armed: Arc<AtomicBool>,
}

impl StorageBackend for Panicking {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        assert!(!self.armed.swap(false, Ordering::Relaxed), "the fault of this test");
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }
}

#[tokio::test]
async fn a_panic_of_the_store_is_told() {
    let armed = Arc::new(AtomicBool::new(false));
    let disk = Panicking { inner: InMemoryBackend::new(), armed: armed.clone() };
    let store = Store::on_backend(disk, NETWORK, b"genesis", pools()).unwrap();
    let (driver, mut messages) = tokio::sync::mpsc::unbounded_channel();
    let keeper = Keeper::start(Arc::new(store), driver.downgrade()).unwrap();
    armed.store(true, Ordering::Relaxed);
    let [item, ..] = round(1);
    keeper.write(1, item);
    let told = messages.recv().await;
    assert!(matches!(told, Some(Message::StoreFailed(StoreError::Panicked { .. }))), "{told:?}");
}
