//! Changes of the tip: items leave the pools with it, come back, and may be sent to peers that have
//! reached it (specification sections 7.1 and 7.4).

use super::publish;
use crate::channel::Context;
use crate::id::ConnectionId;
use crate::io::{Admission, TipChange};

/// Applies a change of the tip to the pools.
///
/// Removals come first, so that what comes back finds room and no rival that is about to leave.
/// Items that a re-org undid are shelved: the new chain may admit them later, and no peer sends
/// them again. Only at the end are items published, with the account states of the new tip: what is
/// shelved for an account and admitted again, what the application restores, and what it adds.
pub(crate) fn tip_changed(cx: &mut Context, change: TipChange) {
    let height = cx.tip.held().map_or(0, |tip| tip.height);
    for (pool, key) in change.remove {
        let Some(pool) = cx.pools.get_mut(pool.0 as usize) else { continue };
        pool.shelf.take_key(&key);
        if let Some((_, _, gone)) = pool.take_out(&key) {
            cx.outputs.push_back(gone);
        }
    }
    let limits = &cx.config.limits;
    let most = (limits.shelved, limits.shelved_bytes);
    for (pool, key) in change.shelve {
        let Some(pool) = cx.pools.get_mut(pool.0 as usize) else { continue };
        if let Some((item, from, gone)) = pool.take_out(&key) {
            pool.shelf.put(item, from, height, most);
            cx.outputs.push_back(gone);
        }
    }
    let mut back = Vec::new();
    for pool in &mut cx.pools {
        pool.shelf.prune(height.saturating_sub(u64::from(limits.blocks_kept)));
        for (account, state) in &change.accounts {
            for item in pool.content.set_account(*account, *state) {
                let from = pool.from(&item.id);
                cx.outputs.push_back(pool.forget(item.id));
                // A used nonce never becomes valid again on this chain: such items are dropped.
                if item.facts.chain.is_some_and(|link| link.nonce >= state.next) {
                    pool.shelf.put(item, from, height, most);
                }
            }
            let admitted = pool.shelf.take_account(*account, state).into_iter();
            back.extend(admitted.map(|(item, from)| {
                (pool.index, item.body, Admission { from, account: Some(*state) })
            }));
        }
    }
    for (index, key) in change.restore {
        let Some(pool) = cx.pools.get_mut(index.0 as usize) else { continue };
        let restored = pool.shelf.take_key(&key);
        back.extend(
            restored.map(|(item, from)| (index, item.body, Admission { from, account: None })),
        );
    }
    for (pool, body, admission) in back.into_iter().chain(change.add) {
        publish(cx, pool, body, admission);
    }
}

/// A peer's executed tip has changed: entries held back for it may be due.
pub(crate) fn peer_tip_changed(cx: &mut Context, connection: ConnectionId) {
    for pool in &mut cx.pools {
        if let Some(held) = pool.links.get_mut(&connection) {
            held.tip_changed(&pool.log, pool.next);
            cx.links.wake(connection, held.at.slot);
        }
    }
}
