//! The address book in the store: its encoding, and that of the versions before.

use std::time::Duration;

use tidegate_proto::config::PeerBook;
use tidegate_proto::id::{Address, PeerId, Signature};

/// The key of the book. Each encoding has its own, so that a version of the software never takes the book of another
/// for its own: an older one finds the book that it left.
pub(super) const BOOK: &str = "book 2";
/// The key of the book before protocol version 5, whose records named no sealing keys.
pub(super) const BOOK_1: &str = "book";

/// Its records: the peer, the sequence number, the addresses, and the signature.
type Record1 = (PeerId, u64, Vec<Address>, Signature);
/// Its entries: as those of the present version, but for the record.
type Entry1 = (PeerId, Option<Record1>, bool, Option<Address>, Vec<u8>, bool, u32, bool);
/// The key of its hashes, its entries, and the bans.
type Book1 = (Option<[u8; 16]>, Vec<Entry1>, Vec<(PeerId, Duration)>);

pub(super) fn write(book: &PeerBook) -> Option<Vec<u8>> {
    postcard::to_stdvec(book).ok()
}

pub(super) fn read(bytes: &[u8]) -> Option<PeerBook> {
    postcard::from_bytes(bytes).ok()
}

/// The records are of no use, since other bytes are signed now: peers are kept with the addresses where they were met
/// or said to be, and bans are kept.
pub(super) fn read_1(bytes: &[u8]) -> Option<PeerBook> {
    let (key, entries, bans): Book1 = postcard::from_bytes(bytes).ok()?;
    let entries = entries.into_iter().map(|entry| {
        let (peer, record, local, met_at, source, tried, failures, anchor) = entry;
        let said = record.and_then(|(_, _, addresses, _)| addresses.into_iter().next());
        (peer, None::<()>, local, met_at.or(said), source, tried, failures, anchor)
    });
    let entries = entries.collect::<Vec<_>>();
    read(&postcard::to_stdvec(&(key, entries, bans)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_of_the_version_before_is_taken_over() {
        let address = |n: u8| Address(vec![4, 8, 8, 8, n].into());
        let peer = |n: u8| PeerId([n; 32]);
        let record = |n: u8| (peer(n), 7, vec![address(n), address(9)], Signature([1; 64]));
        let entries: Vec<Entry1> = vec![
            (peer(1), Some(record(1)), false, Some(address(5)), vec![1], true, 3, true),
            (peer(2), Some(record(2)), false, None, vec![2], false, 0, false),
        ];
        let bans = vec![(peer(6), Duration::from_secs(60))];
        let old: Book1 = (Some([4; 16]), entries, bans.clone());
        let book = read_1(&postcard::to_stdvec(&old).unwrap()).unwrap();
        assert_eq!((book.key, &book.bans), (Some([4; 16]), &bans));
        let [met, told] = &book.entries[..] else { panic!("two peers: {book:?}") };
        assert_eq!((met.peer, &met.met_at), (peer(1), &Some(address(5))));
        assert_eq!((met.tried, met.failures, met.anchor), (true, 3, true));
        assert_eq!((told.peer, &told.met_at), (peer(2), &Some(address(2))));
        assert!(book.entries.iter().all(|entry| entry.record.is_none()));
        assert_eq!(read(&write(&book).unwrap()), Some(book));
    }
}
