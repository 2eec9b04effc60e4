use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{Kind, Message};

fn frame(bytes: &[u8]) -> Frame {
    Bytes::copy_from_slice(bytes).into()
}

#[derive(Deserialize)]
struct VectorFile {
    r#type: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    case: String,
    hex: String,
    value: serde_json::Value,
}

fn check<T: Serialize>(
    cases: &[Case],
    decode: impl Fn(&Frame) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Result<Frame, EncodeError>,
) {
    for Case { case, hex, value } in cases {
        let bytes = hex::decode(hex).unwrap();
        let message = decode(&frame(&bytes)).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(&serde_json::to_value(&message).unwrap(), value, "{case}");
        assert_eq!(encode(&message).unwrap().to_bytes(), bytes, "{case}");
    }
}

/// The kind of channel that has messages of this name in the schema.
fn message_of(name: &str) -> Kind {
    let kind = Kind::ALL.iter().copied().find(|kind| kind.message() == name);
    kind.unwrap_or_else(|| panic!("no channel has {name}"))
}

/// Section 3: what the vectors say is what the codec reads and writes. R3.9
#[test]
fn the_golden_vectors_hold() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let file: VectorFile = serde_json::from_str(&text).unwrap();
        assert!(file.cases.len() >= 34);
        match file.r#type.as_str() {
            "BlockBody" => check(&file.cases, Frame::decode::<BlockBody>, Encode::to_frame),
            "RecordPayload" => check(&file.cases, Frame::decode::<RecordPayload>, Encode::to_frame),
            "Description" => check(&file.cases, Frame::decode::<Description>, Encode::to_frame),
            "Said" => check(&file.cases, Frame::decode::<Said>, Encode::to_frame),
            "Statement" => check(&file.cases, Frame::decode::<Statement>, Encode::to_frame),
            "SignedStatement" => {
                check(&file.cases, Frame::decode::<SignedStatement>, Encode::to_frame);
            }
            name => {
                let kind = message_of(name);
                check(&file.cases, |frame| Message::decode(kind, frame), Message::to_frame);
            }
        }
        files += 1;
    }
    assert_eq!(files, Kind::ALL.len() + 6);
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[derive(Deserialize)]
struct Refused {
    r#type: String,
    case: String,
    hex: String,
    error: String,
}

/// Section 3, rule by rule: hand-picked frames that are refused, and why.
/// R3.1, R3.2, R3.3, R3.4, R3.5
#[test]
fn the_strict_profile_refuses() {
    let file: BTreeMap<String, Vec<Refused>> =
        serde_json::from_str(include_str!("../../../../spec/refused.json")).unwrap();
    assert!(file["cases"].len() >= 19);
    for Refused { r#type, case, hex, error } in &file["cases"] {
        let frame = frame(&hex::decode(hex).unwrap());
        let decoded = match r#type.as_str() {
            "RecordPayload" => frame.decode::<RecordPayload>().map(drop),
            name => Message::decode(message_of(name), &frame).map(drop),
        };
        let found = format!("{:?}", decoded.expect_err(case));
        let name = found.split([' ', '{']).next().unwrap_or_default();
        assert_eq!(name, error, "{case}: {found}");
    }
    let error = frame(&words(&[7])).decode::<PoolMessage>().unwrap_err();
    assert_eq!(error, DecodeError::UnknownValue { of: "PoolMessage", value: 7 });
}

/// R3.6
#[test]
fn oversized_values_are_not_encoded() {
    let fetch = |count| PoolMessage::Fetch(vec![0; count]).to_frame();
    assert!(fetch(64).is_ok());
    assert_eq!(fetch(65).unwrap_err(), EncodeError { length: 65, bound: 64 });
    let push = |size| PoolMessage::Push(Body::Whole(vec![0; size].into())).to_frame();
    assert!(push(MAX_WHOLE).is_ok());
    assert!(push(MAX_WHOLE + 1).is_err());
    // Each part is within its bound, the frame is not.
    let prefilled = Prefilled { index: 0, body: vec![0; MAX_PREFILLED_ITEM].into() };
    let compact = |count| {
        let push = Compact {
            header: Bytes::new(),
            salt: Salt([0; 16]),
            groups: Vec::new(),
            short_ids: Bytes::new(),
            prefilled: vec![prefilled.clone(); count],
        };
        BlockMessage::Push(push).to_frame()
    };
    assert!(compact(7).is_ok());
    assert_eq!(compact(8).unwrap_err().bound, MAX_FRAME);
}

#[test]
fn a_large_body_is_shared_not_copied() {
    let body = Bytes::from(vec![7; 5001]);
    let message = PoolMessage::Push(Body::Whole(body.clone()));
    let sent = message.to_frame().unwrap();
    assert_eq!(sent.len(), 12 + 5004);
    assert_eq!(sent.parts()[1].as_ptr(), body.as_ptr());
    let Ok(PoolMessage::Push(Body::Whole(read))) = sent.decode() else { panic!() };
    assert_eq!(read.as_ptr(), body.as_ptr());
    // In one piece it is the same message.
    let whole = Frame::from(sent.to_bytes());
    assert_eq!(whole.decode(), Ok(message));
    assert_eq!(whole, sent);
}

#[test]
fn reading_across_head_and_body_is_reading_the_bytes() {
    let body = Bytes::from((0..2000u32).map(|i| i as u8).collect::<Vec<_>>());
    let whole = Frame::from(Bytes::from([words(&[2, 0, 2000]), body.to_vec()].concat()));
    let expected = whole.decode::<PoolMessage>();
    assert!(expected.is_ok());
    for cut in [0, 3, 8, 12, 13, 1000, 2012] {
        let bytes = whole.to_bytes();
        let frame = Frame { head: bytes.slice(..cut), body: Some(bytes.slice(cut..)) };
        assert_eq!(frame.decode(), expected, "{cut}");
    }
}

proptest! {
    /// Section 3: `decode(x) = Ok(m)` implies `encode(m) = x`, for bytes that are nearly messages.
    #[test]
    fn decoded_messages_are_canonical(
        head in prop::collection::vec(0u32..9, 0..12),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let frame = frame(&[words(&head), tail].concat());
        macro_rules! canonical {
            ($($message:ident),+) => {$(
                if let Ok(message) = frame.decode::<$message>() {
                    prop_assert_eq!(message.to_bytes().unwrap(), frame.to_bytes());
                }
            )+};
        }
        canonical!(ControlMessage, TipMessage, BlockMessage, PoolMessage, RecordPayload);
    }
}

/// Keeping a part of a message must not keep the whole frame.
#[test]
fn kept_parts_do_not_pin_their_frame() {
    let header = Bytes::from(vec![1; 108]);
    let push = |short_ids: Vec<u8>| {
        BlockMessage::Push(Compact {
            header: header.clone(),
            salt: Salt([0; 16]),
            groups: Vec::new(),
            short_ids: short_ids.into(),
            prefilled: vec![Prefilled { index: 0, body: Bytes::from(vec![2; 300]) }],
        })
    };
    let in_frame = |frame: &Bytes, part: &Bytes| frame.as_ptr_range().contains(&part.as_ptr());
    let bytes = push(vec![0; 24_000]).to_frame().unwrap().to_bytes();
    let frame = Frame::from(bytes.clone());
    let Ok(BlockMessage::Push(compact)) = frame.decode() else { panic!("it is a push") };
    for part in [&compact.header, &compact.short_ids, &compact.prefilled[0].body] {
        assert!(!in_frame(&bytes, part), "{} bytes keep {}", part.len(), bytes.len());
    }
    // What is nearly all of its frame is not copied.
    for size in [1, 57, 1_000, MAX_WHOLE] {
        let body = Body::Whole(Bytes::from(vec![3; size]));
        let answer = PoolMessage::Answer(Answer { number: 7, body });
        let bytes = answer.to_frame().unwrap().to_bytes();
        let frame = Frame::from(bytes.clone());
        let Ok(PoolMessage::Answer(answer)) = frame.decode() else { panic!("it is an answer") };
        let Body::Whole(body) = answer.body else { panic!("it is whole") };
        assert!(in_frame(&bytes, &body) && bytes.len() <= body.len() + 64);
    }
}
