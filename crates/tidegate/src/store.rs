//! What survives a restart: blocks, the application's state, items that were published here, and
//! what is known of peers.
//!
//! One file, by redb. A transaction is there as a whole or not at all, whenever the process dies
//! or the power fails, and a node reports only what is in one that has been synced. Beside it lies
//! a note that says whose store it is, so that another network's is refused before it is touched.
//!
//! # Not guaranteed
//!
//! That a disk keeps what it says it has synced. That a store can be copied while its node runs:
//! stop the node first. Items that came from peers are not kept, for peers have them; peers' addresses
//! are kept every 250 ms or less often, so the last ones may be lost.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use redb::{
    Database, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition,
    WriteTransaction,
};
use tidegate_proto::config::PeerBook;
use tidegate_proto::id::{BlockId, NetworkId, PoolIndex};
use tidegate_proto::io::{Block, BlockItem, Found, Load, Write};
use tidegate_proto::rules::Rules;
use tidegate_proto::wire::{BlockBody, Frame};

use crate::node::BlockAt;

mod book;
mod keeper;
#[cfg(test)]
mod tests;

pub(crate) use keeper::{FoundBlock, Keeper};

/// The schema version of the file. A higher one was written by a newer version of this crate. In a
/// lower one the item roots of the blocks were computed differently, so there is nothing to
/// migrate.
const SCHEMA: u32 = 2;
/// Blocks below the tip that are loaded with their items: the deepest possible re-org.
const RECENT: u64 = 64;
/// Page cache of the file, in bytes.
const CACHE: usize = 4 << 20;

/// Numbers reserved for the records that a node signs between two starts.
const RECORDS: u64 = 1 << 16;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
/// Height and header by id.
const BLOCKS: TableDefinition<'_, &[u8; 32], (u64, &[u8])> = TableDefinition::new("blocks");
const BODIES: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("bodies");
/// Ids of all blocks by height, and those of the best chain.
const HEIGHTS: TableDefinition<'_, (u64, &[u8; 32]), ()> = TableDefinition::new("heights");
const CHAIN: TableDefinition<'_, u64, &[u8; 32]> = TableDefinition::new("chain");
/// Parents by id.
const PARENTS: TableDefinition<'_, &[u8; 32], &[u8; 32]> = TableDefinition::new("parents");
/// Items published here, by pool and id.
const ITEMS: TableDefinition<'_, (&str, &[u8; 32]), &[u8]> = TableDefinition::new("items");
/// The application's state.
const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");

/// Why a store cannot be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system reports an error.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// Another process has opened it.
    #[error("{}: this store is open already, by another process or in this one: close it there, or give this node a folder of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another network, or has another genesis.
    #[error("{}: a store of another {what}: give this node a folder of its own", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The difference.
        what: &'static str,
    },
    /// It was opened for another node than the one it was given to.
    #[error("{}: this store was opened for another {what} than the node has: say the same to both", path.display())]
    NotTheNodes {
        /// The file.
        path: PathBuf,
        /// The difference.
        what: &'static str,
    },
    /// It was written by a newer version.
    #[error("{}: a store of schema {found}, and this version knows {SCHEMA}: use a newer version", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The schema it has.
        found: u32,
    },
    /// It was written by an older version, whose blocks this one cannot use.
    #[error("{}: a store of schema {found}, and this version needs {SCHEMA}: its blocks are of protocol 1 and good for no peer any more. Move the folder away and start anew: peers give the chain of protocol 2", path.display())]
    Older {
        /// The file.
        path: PathBuf,
        /// The schema it has.
        found: u32,
    },
    /// It is not a store, or it is damaged.
    #[error("{}: not a store that can be read ({why}): restore a copy, or remove the folder to begin anew", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The thread that reads and writes it has panicked.
    #[error("{}: the code of the store has panicked, as its log says: start the node again, and report it", path.display())]
    Panicked {
        /// The file.
        path: PathBuf,
    },
}

/// The note beside the file: which node the store belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    network: NetworkId,
    genesis: Vec<u8>,
}

impl Note {
    fn new(network: NetworkId, genesis: &[u8]) -> Self {
        Self { network, genesis: genesis.to_vec() }
    }

    /// The first difference, if there is one.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        let network = (self.network != other.network).then_some("network");
        network.or_else(|| (self.genesis != other.genesis).then_some("genesis"))
    }

    fn text(&self) -> String {
        let Self { network, genesis } = self;
        format!("schema {SCHEMA}\nnetwork {network}\ngenesis {}\n", hex::encode(genesis))
    }

    /// The schema is read first: a newer one may change the rest.
    fn read(text: &str) -> Result<Self, Option<u32>> {
        let mut lines = text.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let schema: u32 = field("schema").and_then(|schema| schema.parse().ok()).ok_or(None)?;
        if schema != SCHEMA {
            return Err(Some(schema));
        }
        let mut bytes = |name: &str| field(name).and_then(|text| hex::decode(text).ok());
        let network = bytes("network").and_then(|network| network.try_into().ok()).ok_or(None)?;
        let genesis = bytes("genesis").ok_or(None)?;
        Ok(Self { network: NetworkId(network), genesis })
    }
}

/// The application's data in its store at the start.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Saved {
    /// The state written with its tips: keys, ascending, and values.
    pub state: Vec<(Bytes, Bytes)>,
    /// The last blocks of the best chain, ending with the tip: 64 with their items, and as many
    /// again without.
    pub blocks: Vec<Block>,
}

/// A store on disk.
///
/// Open it, read what is [`Saved`], and give it to [`Builder::store`](crate::Builder::store).
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    db: Arc<Database>,
    note: Note,
    /// Names of the pools, in their order.
    pools: Vec<String>,
}

impl Store {
    /// Whether it belongs to a node of this network, with this genesis header and these pools in
    /// this order: items are assigned to pools by index.
    pub(crate) fn is_for(
        &self,
        network: NetworkId,
        genesis: Option<&Bytes>,
        pools: &[String],
    ) -> Result<(), StoreError> {
        let wanted = Note::new(network, genesis.map_or(&[][..], |genesis| genesis));
        let other_pools = || (self.pools != pools).then_some("list of pools");
        match self.note.differs(&wanted).or_else(other_pools) {
            Some(what) => Err(StoreError::NotTheNodes { path: self.path.clone(), what }),
            None => Ok(()),
        }
    }

    /// Opens the store in a folder, or makes folder and store.
    ///
    /// One of another network, with another genesis header or of another version is refused, and
    /// nothing about it is changed. `pools` are the names of the node's pools in their order.
    pub fn open(
        folder: impl AsRef<Path>,
        network: NetworkId,
        genesis: &[u8],
        pools: impl IntoIterator<Item = String>,
    ) -> Result<Self, StoreError> {
        let folder = folder.as_ref();
        let (file, note) = (folder.join("store.redb"), folder.join("store.note"));
        let wanted = Note::new(network, genesis);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        match std::fs::read_to_string(&note) {
            Ok(text) => check(&text, &wanted, &file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if file.exists() {
                    let why = "store.note is missing".to_owned();
                    return Err(StoreError::Unreadable { path: file, why });
                }
                write_atomically(&note, wanted.text().as_bytes()).map_err(io(&note))?;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => check("", &wanted, &file)?,
            Err(error) => return Err(io(&note)(error)),
        }
        let pools = pools.into_iter().collect::<Vec<_>>();
        if !file.exists() {
            // Created under another name first, so that an incomplete file is never opened.
            let new = folder.join("store.new");
            match std::fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io(&new)(error));
                }
                _ => {}
            }
            drop(Self::with(new.clone(), create(&new)?, pools.clone(), &wanted)?);
            std::fs::rename(&new, &file).and_then(|()| sync_folder(folder)).map_err(io(&file))?;
        }
        Self::with(file.clone(), create(&file)?, pools, &wanted)
    }

    /// A store on a backend of redb's, for instance in memory.
    pub fn on_backend(
        backend: impl StorageBackend,
        network: NetworkId,
        genesis: &[u8],
        pools: impl IntoIterator<Item = String>,
    ) -> Result<Self, StoreError> {
        let path = PathBuf::from("memory");
        let db = redb::Builder::new().set_cache_size(CACHE).create_with_backend(backend);
        let db = db.map_err(|error| opening(&path, error))?;
        Self::with(path, db, pools, &Note::new(network, genesis))
    }

    fn with(
        path: PathBuf,
        db: Database,
        pools: impl IntoIterator<Item = String>,
        wanted: &Note,
    ) -> Result<Self, StoreError> {
        let pools = pools.into_iter().collect();
        let store = Self { path, db: Arc::new(db), note: wanted.clone(), pools };
        // The note may have been copied beside another file.
        let known = store.run(|tx| {
            let mut meta = tx.open_table(META)?;
            let known = meta.get("note")?.map(|note| note.value().to_vec());
            if known.is_none() {
                meta.insert("note", wanted.text().as_bytes())?;
            }
            // Create all tables, so that reading always finds them.
            tx.open_table(BLOCKS)?;
            tx.open_table(BODIES)?;
            tx.open_table(HEIGHTS)?;
            tx.open_table(CHAIN)?;
            tx.open_table(PARENTS)?;
            tx.open_table(ITEMS)?;
            tx.open_table(STATE)?;
            Ok(known)
        })?;
        if let Some(known) = known {
            check(&String::from_utf8_lossy(&known), wanted, &store.path)?;
        }
        Ok(store)
    }

    /// What the application finds.
    pub fn saved(&self, rules: &dyn Rules) -> Result<Saved, StoreError> {
        let read = || -> Result<Result<Saved, String>, redb::Error> {
            let tx = self.db.begin_read()?;
            let mut saved = Saved::default();
            for entry in tx.open_table(STATE)?.iter()? {
                let (key, value) = entry?;
                let [key, value] = [key.value(), value.value()].map(Bytes::copy_from_slice);
                saved.state.push((key, value));
            }
            let (blocks, bodies) = (tx.open_table(BLOCKS)?, tx.open_table(BODIES)?);
            let chain = tx.open_table(CHAIN)?;
            let tip = chain.last()?.map_or(0, |(height, _)| height.value());
            for entry in chain.range(tip.saturating_sub(RECENT * 2)..)? {
                let (height, id) = entry?;
                let (height, id) = (height.value(), *id.value());
                let Some(header) = blocks.get(&id)? else {
                    return Ok(Err(format!("no block at height {height}")));
                };
                let header = Bytes::copy_from_slice(header.value().1);
                let body = bodies.get(&id)?.filter(|_| height + RECENT > tip);
                let body = body.map(|body| Bytes::copy_from_slice(body.value()));
                let items = match body {
                    Some(body) => match self.items(body, rules) {
                        Some(items) => items,
                        None => return Ok(Err(format!("no items at height {height}"))),
                    },
                    None => Vec::new(),
                };
                saved.blocks.push(Block { block: BlockId(id), header, items });
            }
            Ok(Ok(saved))
        };
        self.read(read)
    }

    /// The items of a stored body.
    fn items(&self, body: Bytes, rules: &dyn Rules) -> Option<Vec<BlockItem>> {
        let body = Frame::from(body).decode::<BlockBody>().ok()?;
        BlockItem::all_of(body, rules, |name| self.pool(name), true)
    }

    /// The index of the pool with a name.
    fn pool(&self, name: &str) -> Option<PoolIndex> {
        let place = self.pools.iter().position(|known| known == name)?;
        Some(PoolIndex(place as u16))
    }

    /// Items that were published here.
    pub(crate) fn published(&self) -> Result<Vec<(PoolIndex, Bytes)>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let mut items = Vec::new();
            for entry in self.db.begin_read()?.open_table(ITEMS)?.iter()? {
                let (key, body) = entry?;
                // An item of a pool that the node no longer has stays in the store.
                let pool = self.pool(key.value().0);
                let body = Bytes::copy_from_slice(body.value());
                items.extend(pool.map(|pool| (pool, body)));
            }
            Ok(Ok(items))
        };
        self.read(read)
    }

    /// Headers of the best chain: the tip, and `below` blocks below it.
    pub(crate) fn headers(&self, below: u64) -> Result<Vec<Bytes>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let tx = self.db.begin_read()?;
            let (chain, blocks) = (tx.open_table(CHAIN)?, tx.open_table(BLOCKS)?);
            let tip = chain.last()?.map_or(0, |(height, _)| height.value());
            let mut headers = Vec::new();
            for entry in chain.range(tip.saturating_sub(below)..)? {
                let (height, id) = entry?;
                match blocks.get(id.value())? {
                    Some(block) => headers.push(Bytes::copy_from_slice(block.value().1)),
                    None => return Ok(Err(format!("no block at height {}", height.value()))),
                }
            }
            Ok(Ok(headers))
        };
        self.read(read)
    }

    /// The saved address book.
    pub(crate) fn book(&self) -> Result<PeerBook, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let meta = self.db.begin_read()?.open_table(META)?;
            let saved = |key| -> Result<_, redb::Error> {
                Ok(meta.get(key)?.map(|book| book.value().to_vec()))
            };
            // An unreadable book is no reason not to start: peers can be found again.
            let book = match saved(book::BOOK)? {
                Some(bytes) => book::read(&bytes),
                None => saved(book::BOOK_1)?.and_then(|bytes| book::read_1(&bytes)),
            };
            Ok(Ok(book.unwrap_or_default()))
        };
        self.read(read)
    }

    /// The number above which this start's records are signed: the time, or higher than those of
    /// the last start if the clock has gone back.
    pub(crate) fn record_sequence(&self, now_ms: u64) -> Result<u64, StoreError> {
        self.run(|tx| {
            let mut meta = tx.open_table(META)?;
            let before = meta.get("record")?.and_then(|number| number.value().try_into().ok());
            let beyond = before.map_or(0, u64::from_be_bytes).saturating_add(RECORDS);
            let number = beyond.max(now_ms);
            meta.insert("record", &number.to_be_bytes()[..])?;
            Ok(number)
        })
    }

    fn read<T>(
        &self,
        read: impl FnOnce() -> Result<Result<T, String>, redb::Error>,
    ) -> Result<T, StoreError> {
        let unreadable = |why| StoreError::Unreadable { path: self.path.clone(), why };
        read().map_err(|error| failed(&self.path, error))?.map_err(unreadable)
    }

    /// Runs one transaction, which is durable when this returns.
    fn run<T>(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let run = || -> Result<T, redb::Error> {
            let tx = self.db.begin_write()?;
            let result = change(&tx)?;
            tx.commit()?;
            Ok(result)
        };
        run().map_err(|error| failed(&self.path, error))
    }

    /// Writes several things in one transaction.
    fn keep(&self, writes: &[Write], book: Option<&PeerBook>) -> Result<(), StoreError> {
        self.run(|tx| {
            for write in writes {
                self.apply(tx, write)?;
            }
            if let Some(book) = book.and_then(book::write) {
                tx.open_table(META)?.insert(book::BOOK, &book[..])?;
            }
            Ok(())
        })
    }

    fn apply(&self, tx: &WriteTransaction, write: &Write) -> Result<(), redb::Error> {
        let name = |pool: &PoolIndex| self.pools.get(pool.0 as usize).map_or("", |name| name);
        match write {
            Write::Item { pool, id, body } => {
                tx.open_table(ITEMS)?.insert((name(pool), &id.0), &body[..])?;
            }
            Write::Forget { pool, id } => {
                tx.open_table(ITEMS)?.remove((name(pool), &id.0))?;
            }
            Write::Block { block, parent, height, header, body } => {
                tx.open_table(BLOCKS)?.insert(&block.0, (*height, &header[..]))?;
                tx.open_table(BODIES)?.insert(&block.0, &body[..])?;
                tx.open_table(PARENTS)?.insert(&block.0, &parent.0)?;
                tx.open_table(HEIGHTS)?.insert((*height, &block.0), ())?;
            }
            Write::Tip { block, height, state } => {
                let mut table = tx.open_table(STATE)?;
                for (key, value) in state {
                    match value {
                        Some(value) => drop(table.insert(&key[..], &value[..])?),
                        None => drop(table.remove(&key[..])?),
                    }
                }
                move_tip(tx, block, *height)?;
            }
            // A future kind of write: this crate then handles it too.
            _ => {}
        }
        Ok(())
    }

    /// Id, header and encoded items of a block.
    fn block(&self, at: BlockAt) -> Result<Option<(BlockId, Bytes, Bytes)>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let tx = self.db.begin_read()?;
            let id = match at {
                BlockAt::Id(id) => Some(id.0),
                BlockAt::Height(height) => tx.open_table(CHAIN)?.get(height)?.map(|id| *id.value()),
            };
            let Some(id) = id else { return Ok(None) };
            let header = tx.open_table(BLOCKS)?.get(&id)?;
            let header = header.map(|block| Bytes::copy_from_slice(block.value().1));
            let body = tx.open_table(BODIES)?.get(&id)?;
            let body = body.map(|body| Bytes::copy_from_slice(body.value()));
            Ok(header.zip(body).map(|(header, body)| (BlockId(id), header, body)))
        };
        read().map_err(|error| failed(&self.path, error))
    }

    /// Loads what a peer requests.
    fn load(&self, what: &Load) -> Result<Found, StoreError> {
        let read = || -> Result<Found, redb::Error> {
            let tx = self.db.begin_read()?;
            let (blocks, chain) = (tx.open_table(BLOCKS)?, tx.open_table(CHAIN)?);
            match what {
                Load::Block(block) => {
                    let body = tx.open_table(BODIES)?.get(&block.0)?;
                    let body = body.map(|body| Bytes::copy_from_slice(body.value()));
                    Ok(body.map_or(Found::Nothing, Found::Block))
                }
                Load::Headers { locator, most } => {
                    let mut from = None;
                    for id in locator {
                        let height = blocks.get(&id.0)?.map(|block| block.value().0);
                        // The genesis is not stored.
                        let height = height.or_else(|| self.is_genesis(id).then_some(0));
                        let Some(height) = height else { continue };
                        let best = chain.get(height)?.is_some_and(|best| *best.value() == id.0);
                        if best || height == 0 {
                            from = Some(height + 1);
                            break;
                        }
                    }
                    let Some(from) = from else { return Ok(Found::Nothing) };
                    let mut headers = Vec::new();
                    for entry in chain.range(from..from.saturating_add(u64::from(*most)))? {
                        let (_, id) = entry?;
                        if let Some(block) = blocks.get(id.value())? {
                            headers.push(Bytes::copy_from_slice(block.value().1));
                        }
                    }
                    Ok(Found::Headers(headers))
                }
                _ => Ok(Found::Nothing),
            }
        };
        read().map_err(|error| failed(&self.path, error))
    }

    /// Whether this block is the parent of the first one stored.
    fn is_genesis(&self, id: &BlockId) -> bool {
        let read = || -> Result<bool, redb::Error> {
            let tx = self.db.begin_read()?;
            let first = tx.open_table(CHAIN)?.get(1)?.map(|first| *first.value());
            let Some(first) = first else { return Ok(false) };
            let parent = tx.open_table(PARENTS)?.get(&first)?;
            Ok(parent.is_some_and(|parent| *parent.value() == id.0))
        };
        read().unwrap_or(false)
    }
}

/// Makes a block the tip, and removes blocks of other forks that no re-org reaches.
fn move_tip(tx: &WriteTransaction, tip: &BlockId, height: u64) -> Result<(), redb::Error> {
    let mut chain = tx.open_table(CHAIN)?;
    let parents = tx.open_table(PARENTS)?;
    chain.retain_in(height + 1.., |_, _| false)?;
    let (mut at, mut id) = (height, tip.0);
    // Block 0 is the genesis, which is not stored.
    while at > 0 {
        let known = chain.insert(at, &id)?.is_some_and(|known| *known.value() == id);
        if known {
            break;
        }
        let Some(parent) = parents.get(&id)?.map(|parent| *parent.value()) else { break };
        (at, id) = (at - 1, parent);
    }
    drop(parents);
    let Some(deep) = height.checked_sub(RECENT + 1) else { return Ok(()) };
    let best = chain.get(deep)?.map(|best| *best.value());
    let mut heights = tx.open_table(HEIGHTS)?;
    let mut gone = Vec::new();
    for entry in heights.range((deep, &[0; 32])..=(deep, &[0xff; 32]))? {
        let (key, ()) = (entry?.0, ());
        let id = *key.value().1;
        if Some(id) != best {
            gone.push(id);
        }
    }
    for id in gone {
        heights.remove((deep, &id))?;
        tx.open_table(BLOCKS)?.remove(&id)?;
        tx.open_table(BODIES)?.remove(&id)?;
        tx.open_table(PARENTS)?.remove(&id)?;
    }
    Ok(())
}

/// Checks that a note is that of the expected store.
fn check(text: &str, wanted: &Note, path: &Path) -> Result<(), StoreError> {
    let path = || path.to_owned();
    let known = Note::read(text).map_err(|newer| match newer {
        Some(found @ 1..SCHEMA) => StoreError::Older { path: path(), found },
        Some(found @ SCHEMA..) => StoreError::Newer { path: path(), found },
        Some(0) | None => {
            StoreError::Unreadable { path: path(), why: "store.note is none".to_owned() }
        }
    })?;
    match known.differs(wanted) {
        Some(what) => Err(StoreError::Foreign { path: path(), what }),
        None => Ok(()),
    }
}

fn create(path: &Path) -> Result<Database, StoreError> {
    let db = redb::Builder::new().set_cache_size(CACHE).create(path);
    db.map_err(|error| opening(path, error))
}

fn opening(path: &Path, error: redb::DatabaseError) -> StoreError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.to_owned() },
        error => failed(path, error.into()),
    }
}

fn failed(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source) => match source.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                StoreError::Unreadable { path, why: source.to_string() }
            }
            _ => StoreError::Io { path, source },
        },
        error => StoreError::Unreadable { path, why: error.to_string() },
    }
}

/// Writes a file atomically.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// A new name in a folder is durable only once the folder is synced.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { std::fs::File::open(folder)?.sync_all() } else { Ok(()) }
}
