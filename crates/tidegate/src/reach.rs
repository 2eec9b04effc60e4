//! Where this node can be reached, as far as this machine knows: told to the core, which decides what of it
//! others are told, at the start and whenever the machine's addresses change.

use std::time::Duration;

use multiaddr::Multiaddr;
use tidegate_proto::Time;
use tidegate_proto::id::Address;
use tidegate_proto::io::Command;

use crate::rt;
use crate::transport::to_core;

/// How often the interfaces are looked at. It takes some 50 us, and a machine that moves to another
/// network loses its connections after 8 s.
const LOOK: Duration = Duration::from_secs(5);

/// What is bound, what the operator names, and the interfaces as they were last seen.
#[derive(Debug)]
pub(crate) struct Reach {
    listeners: Vec<Address>,
    external: Vec<Address>,
    interfaces: Vec<Address>,
    /// When the interfaces are looked at again; never where they cannot be.
    pub(crate) next: Option<Time>,
}

impl Reach {
    pub(crate) fn new(listeners: &[Multiaddr], external: &[Multiaddr]) -> Self {
        let interfaces = interfaces();
        Self {
            listeners: listeners.iter().map(to_core).collect(),
            external: external.iter().map(to_core).collect(),
            next: (!interfaces.is_empty()).then_some(Time::ZERO + LOOK),
            interfaces,
        }
    }

    /// What the core is to know, in place of what it knew before.
    pub(crate) fn command(&self) -> Command {
        Command::Listening {
            listeners: self.listeners.clone(),
            interfaces: self.interfaces.clone(),
            external: self.external.clone(),
        }
    }

    /// Looks at the interfaces, if it is time: whether they are others.
    pub(crate) fn look(&mut self, now: Time) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        self.next = Some(now + LOOK);
        let now = interfaces();
        let changed = now != self.interfaces;
        self.interfaces = now;
        changed
    }
}

fn interfaces() -> Vec<Address> {
    rt::interfaces().into_iter().map(|ip| to_core(&Multiaddr::from(ip))).collect()
}
