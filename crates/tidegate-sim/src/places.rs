//! Where the nodes are, and where they listen.

use tidegate_proto::id::Address;
use tidegate_proto::io::Command;

/// Where a node is: four hosts to a network group, as providers have them.
pub(crate) fn address(node: usize) -> Address {
    ip4([20 + (node / 1024) as u8, (node / 4) as u8, (node % 4) as u8, 1])
}

/// Who is there.
pub(crate) fn node_at(address: &Address) -> usize {
    let [_, a, b, c, ..] = address.0[..] else { return 0 };
    (usize::from(a - 20) * 256 + usize::from(b)) * 4 + usize::from(c)
}

/// At which address each node listens: as users' nodes do, at that of any interface.
pub(crate) fn listener() -> Address {
    ip4([0; 4])
}

/// `/ip4/…/udp/4001/quic-v1`
fn ip4(ip: [u8; 4]) -> Address {
    Address([&[4][..], &ip, &[0x91, 0x02, 0x0f, 0xa1, 0xcc, 0x03]].concat().into())
}

/// What a node is told of where it listens.
pub(crate) fn listening(node: usize) -> Command {
    let interfaces = vec![ip4([127, 0, 0, 1]), address(node)];
    Command::Listening { listeners: vec![listener()], interfaces, external: Vec::new() }
}
