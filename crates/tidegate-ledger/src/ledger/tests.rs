use super::*;
use crate::SigningKey;

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn account_of(n: u8) -> AccountId {
    crate::account(&key(n))
}

/// Producers 1 to `producers`; accounts 101 to 104 with 1,000 each.
fn new(producers: u8) -> Ledger {
    let hex_of = |n: u8| hex::encode(account_of(n).0);
    let work = WorkRules { jobs_per_block: 2, max_jobs: 8, difficulty: 4, weight: 100 };
    Ledger::new(Genesis {
        name: "test".into(),
        start_ms: 0,
        slot_ms: 1000,
        producers: (1..=producers).map(hex_of).collect(),
        accounts: (101..=104).map(|n| (hex_of(n), 1000)).collect(),
        work,
    })
    .unwrap()
}

fn transfer(from: u8, amount: u64, fee: u64, nonce: u64) -> Transfer {
    let network = new(4).checker.0.network;
    Transfer::new(&network, &key(from), account_of(200), amount, fee, nonce)
}

fn item(transfer: &Transfer) -> (ItemId, Bytes) {
    let body = transfer.to_bytes();
    (Transfer::id(&body), body)
}

fn subject(transfer: &Transfer) -> Subject {
    let (id, body) = item(transfer);
    Subject::Item { pool: TRANSFERS, id, body }
}

fn work(job: JobId, fee: u64) -> Bytes {
    Work::search(job, account_of(150), fee, (4, 100), 0, 10_000).unwrap().to_bytes()
}

fn judge(ledger: &mut Ledger, subject: &Subject, slot: u64) -> Judgement {
    let checked = ledger.checker().check(subject);
    ledger.judge(checked, slot)
}

fn verdict(ledger: &mut Ledger, subject: &Subject) -> Verdict {
    judge(ledger, subject, 1000).verdict
}

/// Slot n is the turn of producer n % count + 1.
fn turn(ledger: &Ledger, slot: u64) -> SigningKey {
    key((slot % ledger.checker.0.producers.len() as u64) as u8 + 1)
}

fn propose(ledger: &mut Ledger, slot: u64, transfers: &[Transfer]) -> Option<Block> {
    let key = turn(ledger, slot);
    let proposed = ledger.propose(slot, &key, transfers.iter().map(item), []);
    proposed.map(|(block, _)| block)
}

/// Delivers a block as the core would: header, then body.
fn receive(ledger: &mut Ledger, block: &Block) -> Judgement {
    let header = Subject::Header { block: block.block, header: block.header.clone() };
    match judge(ledger, &header, 1000).verdict {
        Verdict::Accept(_) => judge(ledger, &Subject::Block(block.clone()), 1000),
        other => Judgement::of(other),
    }
}

#[test]
fn a_transfer_is_judged_for_itself_alone() {
    let mut ledger = new(4);
    let mut verdict = |t: &Transfer| verdict(&mut ledger, &subject(t));
    let Verdict::Accept(admission) = verdict(&transfer(101, 900, 100, 0)) else { panic!() };
    assert_eq!(admission.account, Some(Account { next: 0, until: 64, balance: 1000 }));
    // The balance covers each alone, but not all together.
    assert!(matches!(verdict(&transfer(101, 900, 100, 63)), Verdict::Accept(_)));
    assert_eq!(verdict(&transfer(101, 1, 0, 64)), Verdict::Ignore);
    assert_eq!(verdict(&transfer(101, 901, 100, 0)), Verdict::Ignore);
    assert_eq!(verdict(&transfer(99, 1, 0, 0)), Verdict::Ignore);
    assert_eq!(verdict(&transfer(101, u64::MAX, 1, 0)), Verdict::Reject);
    let forged = Transfer { amount: 2, ..transfer(101, 1, 1, 0) };
    assert_eq!(verdict(&forged), Verdict::Reject);
}

#[test]
fn a_block_moves_the_tip_and_tells_the_pools() {
    let mut ledger = new(4);
    let first = propose(&mut ledger, 1, &[]).unwrap();
    let jobs = ledger.open_jobs().collect::<Vec<_>>();
    let proof = work(jobs[0], 3);
    let mut other = new(4);
    receive(&mut other, &first);
    let moved = transfer(101, 10, 5, 0);
    let works = [(Work::id(&proof), proof.clone())];
    let producer = turn(&ledger, 2);
    let candidates = [&moved, &transfer(101, 10, 5, 2), &transfer(102, 2000, 0, 0)].map(item);
    let (block, change) = ledger.propose(2, &producer, candidates, works).unwrap();
    assert_eq!(block.items.len(), 2, "what has a gap or no cover is left out");
    assert_eq!(change.remove.len(), 2);
    assert!(change.remove.contains(&(TRANSFERS, ItemKey(item(&moved).0.0))));
    assert!(change.remove.contains(&(WORKS, ItemKey(jobs[0].0))));
    let sender = change.accounts.iter().find(|(id, _)| *id == account_of(101)).unwrap();
    assert_eq!(sender.1, Account { next: 1, until: 65, balance: 985 });
    // Another node gets the same result.
    let judgement = receive(&mut other, &block);
    assert_eq!(judgement.tip, Some(change));
    assert_eq!(other.state.root(), ledger.state.root());
    assert_eq!(other.account(&account_of(150)).balance, 3);
    // The job is closed: a second proof for it is useless.
    let again = work(jobs[0], 1);
    let late = Subject::Item { pool: WORKS, id: Work::id(&again), body: again };
    assert_eq!(verdict(&mut other, &late), Verdict::Ignore);
}

#[test]
fn a_producer_keeps_to_its_turns() {
    let mut ledger = new(4);
    assert!(!ledger.may_propose(1, &key(1)), "slot 1 is producer 2's");
    propose(&mut ledger, 1, &[]).unwrap();
    propose(&mut ledger, 2, &[]).unwrap();
    // Of any three in a row each producer may sign at most one.
    assert!(ledger.may_propose(3, &key(4)));
    assert!(!ledger.may_propose(5, &key(2)), "signed the last but one");
    propose(&mut ledger, 3, &[]).unwrap();
    assert!(ledger.may_propose(5, &key(2)));
    // Other nodes reject a block that breaks the rule.
    let mut cheat = new(4);
    let first = propose(&mut cheat, 1, &[]).unwrap();
    let network = cheat.checker.0.network;
    let header = Header::from_bytes(&first.header).unwrap();
    let second = Header { parent: first.block, height: 2, slot: 5, ..header };
    let second = second.sign(&network, &key(2));
    let subject = Subject::Header { block: second.id(), header: second.to_bytes() };
    assert_eq!(judge(&mut cheat, &subject, 1000).verdict, Verdict::Reject);
    // So is one in another producer's slot, or not after its parent's.
    for slot in [6, 1] {
        let wrong = Header { slot, ..second.clone() }.sign(&network, &key(2));
        let subject = Subject::Header { block: wrong.id(), header: wrong.to_bytes() };
        assert_eq!(judge(&mut cheat, &subject, 1000).verdict, Verdict::Reject);
    }
}

#[test]
fn a_minority_comes_to_a_stop() {
    for count in [1, 2, 3, 4, 5, 8] {
        let mut ledger = new(count);
        let minority = count / 2;
        let mut blocks = 0;
        for slot in 1..200 {
            let of_minority = slot % u64::from(count) < u64::from(minority);
            blocks += u64::from(of_minority && propose(&mut ledger, slot, &[]).is_some());
        }
        assert_eq!(blocks, u64::from(minority), "{count} producers");
    }
    // A majority can go on.
    let mut ledger = new(4);
    let blocks = (1..200).filter(|slot| slot % 4 < 3 && propose(&mut ledger, *slot, &[]).is_some());
    assert!(blocks.count() > 100);
}

#[test]
fn a_header_from_the_future_waits() {
    let mut ledger = new(4);
    let block = propose(&mut new(4), 10, &[]).unwrap();
    let subject = Subject::Header { block: block.block, header: block.header };
    assert_eq!(judge(&mut ledger, &subject, 8).verdict, Verdict::Ignore);
    assert_eq!(judge(&mut ledger, &subject, 9).verdict, GOOD);
}

#[test]
fn the_longer_fork_wins_and_gives_items_back() {
    let [mut a, mut b] = [new(4), new(4)];
    let [x, y, z] = [transfer(101, 1, 1, 0), transfer(102, 1, 1, 0), transfer(103, 1, 1, 0)];
    let on_a = propose(&mut a, 1, &[x.clone(), y.clone()]).unwrap();
    let b1 = propose(&mut b, 2, &[y]).unwrap();
    let b2 = propose(&mut b, 3, &[z]).unwrap();
    // Of the same height but a later slot: stored, not followed.
    assert_eq!(receive(&mut a, &b1), Judgement::of(GOOD));
    assert_eq!(a.tip().0, on_a.block);
    let change = receive(&mut a, &b2).tip.unwrap();
    assert_eq!(a.tip().0, b2.block);
    assert_eq!(a.state.root(), b.state.root());
    // x is valid again; y is in the other chain as well.
    let back = change.add.iter().map(|(_, body, _)| body.clone()).collect::<Vec<_>>();
    assert_eq!(back, [x.to_bytes()]);
    // Jobs of the undone block are gone.
    let open = b.open_jobs().collect::<Vec<_>>();
    assert_eq!(a.open_jobs().collect::<Vec<_>>(), open);
    // In the other direction nothing moves.
    assert_eq!(receive(&mut b, &on_a), Judgement::of(GOOD));
    assert_eq!(b.tip().0, b2.block);
}

/// Proofs for the jobs of an undone block are shelved: the block may come back.
#[test]
fn a_job_that_comes_back_is_told() {
    let [mut a, mut b, mut c] = [new(4), new(4), new(4)];
    let a1 = propose(&mut a, 1, &[]).unwrap();
    let lost = a.open_jobs().map(|job| (WORKS, ItemKey(job.0))).collect::<BTreeSet<_>>();
    assert!(!lost.is_empty());
    receive(&mut c, &a1);
    let [b2, b3] = [2, 3].map(|slot| propose(&mut b, slot, &[]).unwrap());
    receive(&mut c, &b2);
    let away = receive(&mut c, &b3).tip.unwrap();
    assert_eq!(away.shelve.into_iter().collect::<BTreeSet<_>>(), lost);
    assert!(away.remove.is_empty());
    // The first chain becomes longer.
    let mut moves = (4..10).filter_map(|slot| {
        let block = propose(&mut a, slot, &[])?;
        receive(&mut c, &block).tip
    });
    let back = moves.next().expect("the longer chain is followed");
    assert!(back.restore.into_iter().collect::<BTreeSet<_>>().is_superset(&lost));
}

#[test]
fn a_block_that_does_not_hold_leaves_no_trace() {
    let mut ledger = new(4);
    let good = propose(&mut new(4), 1, &[transfer(101, 1, 1, 0)]).unwrap();
    let network = ledger.checker.0.network;
    let wrong_root =
        |header: Header| Header { state_root: tidegate_proto::id::Digest([9; 32]), ..header };
    let header = Header::from_bytes(&good.header).unwrap();
    let bad = wrong_root(header.clone()).sign(&network, &key(2));
    let bad_block = Block { block: bad.id(), header: bad.to_bytes(), items: good.items.clone() };
    let before = ledger.state.root();
    assert_eq!(receive(&mut ledger, &bad_block).verdict, Verdict::Reject);
    assert_eq!(ledger.state.root(), before);
    // A header on top of it is not the fault of the peer that relays it.
    let child =
        Header { parent: bad.id(), height: 2, slot: 2, producer: account_of(3).0, ..header };
    let child = child.sign(&network, &key(3));
    let subject = Subject::Header { block: child.id(), header: child.to_bytes() };
    assert_eq!(judge(&mut ledger, &subject, 1000).verdict, Verdict::Ignore);
    // The valid one is still accepted.
    assert!(receive(&mut ledger, &good).tip.is_some());
    // An unknown item is checked with the block.
    let mut forged = transfer(102, 1, 1, 0);
    forged.signature[0] ^= 1;
    let (id, body) = item(&forged);
    let items = vec![BlockItem { pool: TRANSFERS, id, body, known: false }];
    let with_forged = Block { items, ..bad_block };
    assert_eq!(judge(&mut ledger, &Subject::Block(with_forged), 1000).verdict, Verdict::Reject);
}

#[test]
fn a_failed_move_to_a_fork_restores_the_old_chain() {
    let [mut a, mut b] = [new(4), new(4)];
    for slot in [1, 2] {
        propose(&mut a, slot, &[transfer(101, 1, 1, slot - 1)]).unwrap();
    }
    let (tip, root) = (a.tip().0, a.state.root());
    // A longer fork whose second block is invalid.
    let b1 = propose(&mut b, 3, &[]).unwrap();
    let network = a.checker.0.network;
    let mut parent = Header::from_bytes(&b1.header).unwrap();
    let mut fork = vec![b1];
    for slot in [4, 5] {
        let producer = account_of((slot % 4) as u8 + 1).0;
        let (height, id) = (parent.height + 1, parent.id());
        let header = Header { parent: id, height, slot, producer, ..parent.clone() };
        parent = header.sign(&network, &key((slot % 4) as u8 + 1));
        fork.push(Block { block: parent.id(), header: parent.to_bytes(), items: Vec::new() });
    }
    assert_eq!(receive(&mut a, &fork[0]).verdict, GOOD);
    assert_eq!(receive(&mut a, &fork[1]).verdict, GOOD, "not better than the tip: not executed");
    assert_eq!(receive(&mut a, &fork[2]).verdict, Verdict::Reject);
    assert_eq!((a.tip().0, a.state.root()), (tip, root));
    assert!(propose(&mut a, 7, &[transfer(101, 1, 1, 2)]).is_some());
}

#[test]
fn deep_blocks_are_pruned() {
    let mut ledger = new(4);
    for slot in 1..400 {
        propose(&mut ledger, slot, &[]).unwrap();
    }
    assert!(ledger.blocks.len() as u64 <= HEADERS_KEPT, "{}", ledger.blocks.len());
    let bodies = ledger.blocks.values().filter(|stored| stored.body.is_some()).count();
    assert_eq!(bodies as u64, UNDO_DEPTH + 1);
}

/// What a store has after the moves of a ledger's tip.
#[derive(Default)]
struct Disk {
    state: BTreeMap<Bytes, Bytes>,
    blocks: BTreeMap<BlockId, Block>,
}

impl Disk {
    fn moved(&mut self, block: &Block, change: &TipChange) {
        self.blocks.insert(block.block, block.clone());
        for (key, value) in &change.state {
            match value {
                Some(value) => drop(self.state.insert(key.clone(), value.clone())),
                None => drop(self.state.remove(key)),
            }
        }
    }

    /// The last 129 blocks of the chain that ends there, the older ones without their items.
    fn saved(&self, tip: BlockId) -> crate::Saved {
        let mut blocks = Vec::new();
        let mut at = tip;
        while let Some(block) = self.blocks.get(&at).filter(|_| blocks.len() < 129) {
            let items = if blocks.len() < 64 { block.items.clone() } else { Vec::new() };
            blocks.push(Block { items, ..block.clone() });
            at = Header::from_bytes(&block.header).unwrap().parent;
        }
        blocks.reverse();
        let state = self.state.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        crate::Saved { state, blocks }
    }
}

fn kept() -> Ledger {
    Ledger::restore(new(4).genesis, crate::Saved::default()).unwrap()
}

fn restored(disk: &Disk, tip: BlockId) -> Ledger {
    Ledger::restore(new(4).genesis, disk.saved(tip)).unwrap()
}

/// A chain of `blocks` blocks, each with a transfer, and its store.
fn long(blocks: u64) -> (Ledger, Disk, u64) {
    let mut ledger = kept();
    let mut disk = Disk::default();
    let mut slot = 0;
    for nonce in 0..blocks {
        slot += 1;
        let key = turn(&ledger, slot);
        let open = ledger.open_jobs().next();
        let works = open.map(|job| {
            let body = work(job, 1);
            (Work::id(&body), body)
        });
        let transfer = item(&transfer(101, 1, 2, nonce));
        let (block, change) = ledger.propose(slot, &key, [transfer], works).unwrap();
        disk.moved(&block, &change);
    }
    (ledger, disk, slot)
}

#[test]
fn a_ledger_goes_on_from_its_store() {
    for blocks in [0, 1, 5, 70, 200] {
        let (mut ledger, disk, slot) = long(blocks);
        let mut again = restored(&disk, ledger.tip().0);
        assert_eq!(again.tip(), ledger.tip());
        assert_eq!(again.state.root(), ledger.state.root());
        assert!(again.open_jobs().eq(ledger.open_jobs()));
        assert!(disk.state.len() as u64 <= 4 + 150 + 8 + 64, "what is not needed is removed");
        // Both make the same next block, with the same writes.
        let key = turn(&ledger, slot + 1);
        let next = |ledger: &mut Ledger| ledger.propose(slot + 1, &key, [], []).unwrap();
        assert_eq!(next(&mut ledger), next(&mut again));
    }
}

#[test]
fn blocks_from_the_store_can_be_undone() {
    let (ledger, disk, _) = long(30);
    let mut other = kept();
    // Another chain from the genesis, in later slots and one block longer.
    let fork = (0..31).map(|n| propose(&mut other, 101 + n, &[]).unwrap()).collect::<Vec<_>>();
    let mut both = [ledger.clone(), restored(&disk, ledger.tip().0)];
    let changes = both.each_mut().map(|ledger| {
        let changes = fork.iter().map(|block| receive(ledger, block)).collect::<Vec<_>>();
        assert_eq!(ledger.tip().0, fork[30].block);
        changes
    });
    assert_eq!(changes[0], changes[1]);
    // The store is updated, and leads to the same state again.
    let mut disk = disk;
    for block in &fork {
        disk.blocks.insert(block.block, block.clone());
    }
    let change = changes[0].last().and_then(|judgement| judgement.tip.clone()).unwrap();
    disk.moved(&fork[30], &change);
    assert_eq!(change.add.len(), 30, "the transfers are back");
    let again = restored(&disk, fork[30].block);
    assert_eq!(again.state.root(), both[0].state.root());
    assert!(again.open_jobs().eq(both[0].open_jobs()));
}

#[test]
fn a_store_that_is_damaged_is_refused() {
    let (ledger, disk, _) = long(10);
    let saved = || disk.saved(ledger.tip().0);
    let error = |change: &dyn Fn(&mut crate::Saved)| {
        let mut saved = saved();
        change(&mut saved);
        Ledger::restore(new(4).genesis, saved).unwrap_err()
    };
    use crate::RestoreError as E;
    assert_eq!(error(&|s| drop(s.blocks.remove(3))), E::Block(5));
    assert_eq!(error(&|s| drop(s.blocks.pop())), E::Root(9));
    assert_eq!(error(&|s| s.blocks[4].items.clear()), E::Block(5));
    assert_eq!(
        error(&|s| s.state.retain(|(key, _)| key[..] != saved::undo_key(7)[..])),
        E::Undo(7)
    );
    assert_eq!(error(&|s| s.state.retain(|(key, _)| key[0] != b'j')), E::Root(10));
    assert_eq!(error(&|s| s.state.retain(|(key, _)| key[0] != b'a')), E::Root(10));
    let junk = Bytes::from_static(b"x1");
    assert_eq!(error(&|s| s.state.push((junk.clone(), junk.clone()))), E::Entry("7831".into()));
    for cut in 0..3 {
        let cut = |s: &mut crate::Saved| {
            let (_, value) = &mut s.state[cut * 4];
            *value = value.slice(..value.len() - 1);
        };
        assert!(matches!(error(&cut), E::Entry(_)));
    }
}
