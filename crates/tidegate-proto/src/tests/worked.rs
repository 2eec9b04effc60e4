//! The worked values of the specification: what an implementation in any language must come to.

use super::app::config;
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
    let ids = [0, 1, 2].map(|n| ItemId([n; 32]));
    let roots = [0, 1, 3].map(|count| merkle::root(&ids[..count]).to_string());
    assert_eq!(
        roots,
        [
            "5174dee3b5f3a1bf6b518c0d78aa32c4a8946297893e97f9a2c708a835d4e61e",
            "75c6b84613397141a63f0be6cf5a9515c7073e96ac20668229b9b7bc95b73719",
            "6bf507bdcf55735326c4e17b09366da06dcf158504b6510ac115c6400e561282",
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
            "ed0dd5dbee088e543e5c75fcd766285b5a8ff8a1abccd7f7f5d0f3c2401e6112",
            "b40db5eddbd0d86ccf47dd31d7a31b4cbf11d5011b81ba197f12c530ef0f7e44",
        ]
    );
}

#[test]
fn identities_as_text() {
    let text = PeerId(bytes(0)).to_string();
    assert_eq!(text, "12D3KooW9pP4Seg3kZYhySpuVjn1RPdQBsUFZKiFxGMGQN5MeL6A");
}
