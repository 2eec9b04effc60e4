//! Addresses and listeners of the nodes.

use tidegate_proto::id::Address;
use tidegate_proto::io::Command;

/// The address of a node: four hosts to a network group, as with providers.
pub(crate) fn address(node: usize) -> Address {
    ip4([20 + (node / 1024) as u8, (node / 4) as u8, (node % 4) as u8, 1])
}

/// The node at an address.
pub(crate) fn node_at(address: &Address) -> usize {
    let [_, a, b, c, ..] = address.0[..] else { return 0 };
    (usize::from(a - 20) * 256 + usize::from(b)) * 4 + usize::from(c)
}

/// The address that nodes listen at: any interface, as users' nodes do.
pub(crate) fn listener() -> Address {
    ip4([0; 4])
}

/// `/ip4/…/udp/4001/quic-v1`
fn ip4(ip: [u8; 4]) -> Address {
    Address([&[4][..], &ip, &[0x91, 0x02, 0x0f, 0xa1, 0xcd, 0x03]].concat().into())
}

/// Tells a node its listeners.
pub(crate) fn listening(node: usize) -> Command {
    let interfaces = vec![ip4([127, 0, 0, 1]), address(node)];
    Command::Listening { listeners: vec![listener()], interfaces, external: Vec::new() }
}
