//! The worked examples of the specification, which implementations in any language must reproduce.

use super::application::config;
use super::script::{CONTROL, PEER, Script, hello};
use crate::id::{BlockId, ItemId, PeerId, Salt};
use crate::merkle;
use crate::wire::ControlMessage;

/// Ascending bytes.
fn bytes<const N: usize>(from: u8) -> [u8; N] {
    std::array::from_fn(|i| from + i as u8)
}

/// R7.3.1, R9.2.3
#[test]
fn ids_on_the_wire() {
    let (salt, item) = (Salt(bytes(0)), ItemId(bytes(0)));
    let announcement = crate::pool::announcement(&salt, &item, 161);
    assert_eq!(format!("{:016x}", announcement.id), "7127512f72f27cce");
    let short = crate::block::short_id(&salt, &BlockId(bytes(0x20)), &item);
    assert_eq!(hex::encode(short), "a16330332d88");
}

/// R10.1
#[test]
fn item_roots() {
    let items = [("small", 0), ("small", 1), ("large", 2)];
    let items = items.map(|(pool, n)| (pool, ItemId([n; 32])));
    let roots = [0, 1, 3].map(|count| merkle::root(&items[..count]).to_string());
    assert_eq!(
        roots,
        [
            "5174dee3b5f3a1bf6b518c0d78aa32c4a8946297893e97f9a2c708a835d4e61e",
            "19df06a0ff1dc5ca70769e97aad8e9c2422f61c35e42bb0913a2b8c0f3acc4ef",
            "8fc470a3f83bfa5ccfab03be9a172d56c8a7d1ba2a28d1bbadc8d9d6b11271c4",
        ]
    );
}

/// R5.7.8, R5.7.9
#[test]
fn digests_of_rules() {
    let mut script = Script::with(config(1));
    script.connect(PEER);
    script.send(CONTROL, &ControlMessage::Hello(hello(script.connection)));
    let said = script.received::<ControlMessage>(CONTROL);
    let [_, ControlMessage::Setup(setup)] = &said[..] else { panic!("{said:?}") };
    let digest = |offer: usize| setup.offers[offer].versions[0].rules.to_string();
    assert_eq!((&*setup.offers[0].name, &*setup.offers[2].name), ("", "small"));
    assert_eq!(
        [digest(0), digest(2)],
        [
            "0bf44f2eb6a27f3cc3fcdbbc94a8c22c00109f54374dc02a0c8d39b692d7afd3",
            "b40db5eddbd0d86ccf47dd31d7a31b4cbf11d5011b81ba197f12c530ef0f7e44",
        ]
    );
}

#[test]
fn identities_as_text() {
    let text = PeerId(bytes(0)).to_string();
    assert_eq!(text, "12D3KooW9pP4Seg3kZYhySpuVjn1RPdQBsUFZKiFxGMGQN5MeL6A");
}
