//! Signed peer records: where a peer can be reached (specification section 5.4).

use std::collections::BTreeSet;

use bytes::Bytes;
use ed25519_dalek::VerifyingKey;

use crate::channel::Context;
use crate::id::{Address, ConnectionId, NetworkId, PeerId, Signature};
use crate::io::Output;
use crate::peers::address::{Group, group, is_local, is_unspecified};
use crate::peers::book::Learnt;
use crate::peers::dialer;
use crate::wire::{Encode as _, EncodeError, PeerRecord, RecordPayload, Setup};

const DOMAIN: &str = "tidegate record 1";
/// Addresses in a record (`PeerRecord` in the schema).
const MOST: usize = 16;
/// Network groups that must see this node at an address before it says so itself.
const ALIKE: usize = 3;
/// Addresses that are counted.
const MOST_SEEN: usize = 8;

/// R5.4.1
pub(crate) fn payload(
    network: &NetworkId,
    peer: PeerId,
    sequence: u64,
    addresses: &[Address],
) -> Result<Bytes, EncodeError> {
    let (domain, network, addresses) = (DOMAIN.to_owned(), *network, addresses.to_vec());
    RecordPayload { domain, network, peer, sequence, addresses }.to_bytes()
}

/// Whether the record's peer has signed it, for this network.
pub(crate) fn verify(record: &PeerRecord, network: &NetworkId) -> bool {
    let payload = payload(network, record.peer, record.sequence, &record.addresses);
    let (Ok(payload), Ok(key)) = (payload, VerifyingKey::from_bytes(&record.peer.0)) else {
        return false;
    };
    // R5.4.1
    key.verify_strict(&payload, &record.signature.0.into()).is_ok()
}

/// This node's addresses are others: asks for the signature of a new record.
pub(crate) fn listening(cx: &mut Context, addresses: Vec<Address>) {
    cx.control.reachable.listening = addresses;
    renew(cx);
}

/// Asks for the signature of a record with the addresses of now, if they are others.
fn renew(cx: &mut Context) {
    let addresses = cx.control.reachable.addresses();
    let asked = cx.control.unsigned.as_ref().map(|(_, addresses)| addresses);
    let known = asked.or_else(|| cx.control.record.as_ref().map(|record| &record.addresses));
    if known == Some(&addresses) {
        return;
    }
    cx.config.record_sequence += 1;
    let (sequence, peer) = (cx.config.record_sequence, cx.config.peer);
    let Ok(payload) = payload(&cx.config.network, peer, sequence, &addresses) else { return };
    cx.control.unsigned = Some((sequence, addresses));
    cx.outputs.push_back(Output::Sign { request: sequence, payload });
}

/// The signature is there. One that was asked for before the last is of no use.
pub(crate) fn signed(cx: &mut Context, request: u64, signature: Signature) {
    if let Some((sequence, addresses)) = cx.control.unsigned.take_if(|(s, _)| *s == request) {
        let peer = cx.config.peer;
        cx.control.record = Some(PeerRecord { peer, sequence, addresses, signature });
    }
}

/// A peer has said who it is, and where it sees this node.
pub(super) fn said(cx: &mut Context, link: ConnectionId, setup: &Setup) {
    if cx.config.outbound == 0 {
        return;
    }
    let Some(connection) = cx.links.get(link) else { return };
    let (address, inbound) = (connection.address.clone(), connection.direction.is_inbound());
    if let Some(record) = &setup.record
        && cx.book.learn(record, &address) == Learnt::New
    {
        dialer::look_soon(cx);
    }
    // Who dials chooses his words: only those whom this node chose are believed.
    if !inbound && cx.control.reachable.observed(&setup.observed, group(&address)) {
        renew(cx);
    }
}

/// Where this node can be reached.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    listening: Vec<Address>,
    /// Where others see it: which network groups say so, the latest at the end.
    seen: Vec<(Address, BTreeSet<Group>)>,
}

impl Reachable {
    /// A group sees this node at an address: whether that makes it one to tell.
    fn observed(&mut self, address: &Address, by: Group) -> bool {
        // A node that does not listen is not there for others.
        if self.listening.is_empty() || address.0.is_empty() || is_unspecified(address) {
            return false;
        }
        let known = self.seen.iter().position(|(seen, _)| seen == address);
        let new = || (address.clone(), BTreeSet::new());
        let mut seen = known.map_or_else(new, |at| self.seen.remove(at));
        let before = seen.1.len();
        if before < ALIKE {
            seen.1.insert(by);
        }
        let enough = before < ALIKE && seen.1.len() == ALIKE;
        self.seen.push(seen);
        if self.seen.len() > MOST_SEEN {
            self.seen.remove(0);
        }
        enough
    }

    /// What the record lists: as many as it can carry. Where this node is in its own network only if
    /// it is nowhere else, since a record is passed on as a whole.
    fn addresses(&self) -> Vec<Address> {
        let seen = self.seen.iter().filter(|(_, by)| by.len() >= ALIKE).map(|(address, _)| address);
        let mut addresses = Vec::new();
        for address in self.listening.iter().chain(seen) {
            if !is_unspecified(address) && !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        if addresses.iter().any(|address| !is_local(address)) {
            addresses.retain(|address| !is_local(address));
        }
        addresses.truncate(MOST);
        addresses
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn address(ip: [u8; 4]) -> Address {
        Address(Bytes::from([&[4][..], &ip].concat()))
    }

    #[test]
    fn an_address_is_told_when_three_groups_see_it() {
        let mut reachable = Reachable::default();
        let [own, seen] = [address([127, 0, 0, 1]), address([8, 8, 8, 8])];
        let by = |n: u8| group(&address([20, n, 0, 1]));
        // Who does not listen has no address, whatever others see.
        assert!((0..9).all(|n| !reachable.observed(&seen, by(n))));
        reachable.listening = vec![address([0; 4]), own.clone()];
        assert!(!reachable.observed(&seen, by(1)));
        assert!(!reachable.observed(&seen, by(1)), "one group is one");
        assert!(!reachable.observed(&seen, by(2)));
        assert_eq!(reachable.addresses(), vec![own.clone()]);
        assert!(reachable.observed(&seen, by(3)));
        assert_eq!(reachable.addresses(), [seen], "the world is not told of its own network");
        // What nobody sees any more is forgotten.
        for n in 0..MOST_SEEN as u8 {
            reachable.observed(&address([9, 9, 9, n]), by(n));
        }
        assert_eq!(reachable.addresses(), [own]);
    }

    #[test]
    fn a_record_has_room_for_sixteen() {
        let listening = (0..20).map(|n| address([8, 8, 8, n])).collect();
        let reachable = Reachable { listening, seen: Vec::new() };
        assert_eq!(reachable.addresses().len(), MOST);
    }
}
