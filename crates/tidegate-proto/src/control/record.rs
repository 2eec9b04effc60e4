//! Signed peer records: the addresses of a peer (specification section 5.4).

use std::time::Duration;

use crate::channel::Context;
use crate::id::{Address, ConnectionId, Signature};
use crate::io::Output;
use crate::peers::book::Learnt;
use crate::peers::{dial_back, dialer, exchange, record};
use crate::time::Time;
use crate::violation::Violation;
use crate::wire::{PeerRecord, Setup};

/// The minimum interval between two times that a node signs a record to outdate a newer one of its
/// own.
const SURPASS: Duration = Duration::from_secs(60);
/// The highest sequence number that it outdates: enough must remain for all that it may ever sign.
const MOST_SURPASSED: u64 = u64::MAX / 2;

/// This node's own records.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// The record for everybody.
    public: Option<PeerRecord>,
    /// The record for peers of the local network: the public addresses, and those in that network.
    local: Option<PeerRecord>,
    /// Records waiting for their signatures.
    unsigned: Vec<Unsigned>,
    /// The public and the local addresses last signed, or about to be.
    told: Option<[Vec<Address>; 2]>,
    /// A public address was signed once, so losing it must be announced too.
    was_public: bool,
    /// When a newer record of this node than its own was last received.
    surpassed: Option<Time>,
}

/// A record waiting for its signature.
#[derive(Debug)]
struct Unsigned {
    /// The record's sequence number, which is also the number of the request.
    sequence: u64,
    is_local: bool,
    addresses: Vec<Address>,
}

impl Own {
    /// Whether the public addresses are these, or are about to be.
    fn says_to_all(&self, addresses: &[Address]) -> bool {
        let asked = self.unsigned.iter().find(|record| !record.is_local);
        let signed = self.public.as_ref().map(|record| &record.addresses);
        asked.map(|record| &record.addresses).or(signed).is_some_and(|own| is_same(own, addresses))
    }

    /// The record for a peer seen at an address. R15.6
    pub(super) fn record_for(&self, seen_at: &Address) -> Option<&PeerRecord> {
        let local = self
            .local
            .as_ref()
            .filter(|record| record.addresses.iter().all(|at| exchange::is_useful(at, seen_at)));
        local.or(self.public.as_ref())
    }
}

/// This node's listeners or addresses have changed.
pub(crate) fn listening(
    cx: &mut Context,
    listeners: Vec<Address>,
    interfaces: Vec<Address>,
    external: Vec<Address>,
) {
    cx.book.set_interfaces(&interfaces);
    if cx.config.sealing.is_some() {
        cx.control.reachable.take_offers();
    }
    cx.control.reachable.listen(listeners, interfaces, external, cx.now);
    renew(cx);
}

/// Whether two lists have the same addresses. A different order is no reason to sign again: it only
/// says what to try first.
fn is_same(some: &[Address], others: &[Address]) -> bool {
    some.len() == others.len() && some.iter().all(|address| others.contains(address))
}

/// Requests signatures for new records, if the addresses have changed. Each signed record is sent
/// to all peers, and they relay it.
pub(crate) fn renew(cx: &mut Context) {
    let told = cx.control.reachable.told(cx.now);
    let own = &cx.control.own;
    let known = own.told.as_ref();
    if !known.is_some_and(|known| known.iter().zip(&told).all(|(a, b)| is_same(a, b))) {
        let public_stays = own.says_to_all(&told[0]);
        sign(cx, told, public_stays);
    }
}

/// The local record gets the higher number: a peer that receives both keeps the one that says more.
fn sign(cx: &mut Context, told: [Vec<Address>; 2], public_stays: bool) {
    let [public, local] = told.clone();
    cx.control.own.was_public |= !public.is_empty();
    let is_one = is_same(&public, &local) || public.is_empty() && !cx.control.own.was_public;
    let stays = public_stays && !is_one;
    cx.control.own.unsigned.retain(|record| !record.is_local && stays);
    if is_one {
        cx.control.own.public = None;
    } else if !stays {
        ask(cx, public, false);
    }
    ask(cx, local, true);
    cx.control.own.told = Some(told);
}

fn ask(cx: &mut Context, addresses: Vec<Address>, is_local: bool) {
    let Some(sequence) = cx.config.record_sequence.checked_add(1) else { return };
    cx.config.record_sequence = sequence;
    let peer = cx.config.peer;
    let sealing = cx.config.sealing;
    let payload = record::payload(&cx.config.network, peer, sequence, &addresses, sealing);
    let Ok(payload) = payload else {
        return;
    };
    cx.control.own.unsigned.push(Unsigned { sequence, is_local, addresses });
    cx.outputs.push_back(Output::Sign { request: sequence, payload });
}

/// A signature for a record. It is dropped if the addresses have changed since the request.
pub(crate) fn signed(cx: &mut Context, request: u64, signature: Signature) {
    let own = &mut cx.control.own;
    let asked = own.unsigned.iter().position(|record| record.sequence == request);
    let Some(asked) = asked else { return };
    let Unsigned { sequence, is_local, addresses } = own.unsigned.remove(asked);
    let (peer, sealing) = (cx.config.peer, cx.config.sealing);
    let record = PeerRecord { peer, sequence, addresses, sealing, signature };
    *(if is_local { &mut own.local } else { &mut own.public }) = Some(record);
    if own.unsigned.is_empty() {
        exchange::moved(cx);
    }
}

/// When [`expire`] is due.
pub(crate) fn deadline(cx: &Context) -> Option<Time> {
    let unseen = cx.control.reachable.deadline();
    unseen.into_iter().chain(dial_back::next_look(cx)).min()
}

/// Drops addresses that no peer has seen for long, and checks whether a peer should be asked about
/// others.
pub(crate) fn expire(cx: &mut Context) {
    cx.control.reachable.expire(cx.now);
    renew(cx);
    dial_back::expire(cx);
}

/// A connection is gone: its peer no longer counts as a witness of this node's addresses.
pub(super) fn gone(cx: &mut Context, connection: ConnectionId) {
    cx.offers.forget(connection);
    let had_part = cx.control.reachable.gone(connection, cx.now);
    // A node that has signed nothing has nothing to correct.
    if had_part && cx.control.own.told.is_some() {
        renew(cx);
    }
    if had_part || dial_back::next_look(cx).is_some() {
        dial_back::look(cx);
    }
}

/// A peer has a record of this node's own. If it is newer than the current one, this node signed it
/// before it lost its store. Peers would ignore all further records, so the sequence number must go
/// beyond it.
pub(crate) fn heard_own(cx: &mut Context, record: &PeerRecord) -> Result<(), Violation> {
    let own = &mut cx.control.own;
    let is_new = own.told.is_some() && record.sequence > cx.config.record_sequence;
    // Limited: two nodes with the same key would outdate each other without end.
    let may = own.surpassed.is_none_or(|last| cx.now.since(last) >= SURPASS);
    if !is_new || !may || record.sequence > MOST_SURPASSED {
        return Ok(());
    }
    // R15.3
    if !record::verify(record, &cx.config.network) {
        return Err(Violation::WrongRecord);
    }
    own.surpassed = Some(cx.now);
    cx.config.record_sequence = record.sequence;
    let told = cx.control.reachable.told(cx.now);
    sign(cx, told, false);
    Ok(())
}

/// The peer's setup says what its addresses are, and at which address it sees this node.
pub(super) fn said(cx: &mut Context, connection: ConnectionId, setup: &Setup) {
    if let Some(record) = &setup.record {
        cx.offers.keep(connection, record);
    }
    if cx.config.outbound == 0 {
        return;
    }
    let Some(link) = cx.links.get(connection) else { return };
    let (address, inbound) = (link.address.clone(), link.direction.is_inbound());
    if let Some(record) = &setup.record
        && cx.book.learn(record, &address) == Learnt::New
    {
        dialer::refill_soon(cx);
    }
    // A peer that dialed this node may say anything: only peers that this node chose are believed.
    // And the observed address belongs to a listener only if this node dialed from that listener's
    // socket.
    let control = cx.control.links.get(&connection);
    if let Some(listener) = control.and_then(|side| side.listener.clone()).filter(|_| !inbound) {
        let (at, now) = ((&listener, &address), cx.now);
        cx.control.reachable.observed(connection, at, &setup.observed, now);
        renew(cx);
        dial_back::look(cx);
    }
}
