//! WebSocket framing: every split, every limit, and what is no frame.

use proptest::prelude::*;

use super::properties::pieces;
use crate::meter::websocket::{Frame, FrameError, Frames, Opcode, Side};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMIT: usize = 1_000;

fn frame(opcode: Opcode, is_final: bool, payload: &[u8]) -> Frame {
    Frame { opcode, is_final, payload: payload.to_vec() }
}

fn read(side: Side, pieces: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
    let mut frames = Frames::new(side, LIMIT);
    let mut found = Vec::new();
    for piece in pieces {
        let mut input = *piece;
        while let Some(frame) = frames.next(&mut input)? {
            found.push(frame);
        }
        assert!(input.is_empty(), "bytes are left unread");
    }
    Ok(found)
}

/// These frames on the wire are read as those, in one piece and byte by byte, with a mask and without.
fn check(sent: &[Frame], expected: &[Frame]) {
    for (side, mask) in [(Side::Client, Some(MASK)), (Side::Server, None)] {
        let wire: Vec<u8> = sent.iter().flat_map(|frame| frame.encode(mask)).collect();
        assert_eq!(read(side, &[&wire]).unwrap(), expected, "{side:?}");
        if wire.len() < LIMIT {
            let single: Vec<&[u8]> = wire.chunks(1).collect();
            assert_eq!(read(side, &single).unwrap(), expected, "{side:?}, byte by byte");
        }
    }
}

fn check_error(side: Side, wire: &[u8], expected: FrameError) {
    assert_eq!(read(side, &[wire]), Err(expected), "{wire:02x?}");
    let single: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(read(side, &single), Err(expected), "{wire:02x?}, byte by byte");
}

#[test]
fn the_examples_of_the_specification_are_read() {
    let hello = frame(Opcode::Text, true, b"Hello");
    assert_eq!(read(Side::Server, &[b"\x81\x05Hello"]), Ok(vec![hello.clone()]));
    let masked = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(read(Side::Client, &[masked]), Ok(vec![hello.clone()]));
    assert_eq!(read(Side::Server, &[b"\x01\x03Hel\x80\x02lo"]), Ok(vec![hello.clone()]));
    assert_eq!((hello.encode(None), hello.encode(Some(MASK))), (b"\x81\x05Hello".to_vec(), masked.to_vec()));
    assert_eq!(Frame::close(1009, "too large").encode(None), b"\x88\x0b\x03\xf1too large");
}

#[test]
fn every_form_of_length_is_written_and_read() {
    for (length, head) in [(0, 2), (125, 2), (126, 4), (1_000, 4), (65_535, 4), (65_536, 10)] {
        let message = frame(Opcode::Binary, true, &vec![b'x'; length]);
        let wire = message.encode(None);
        assert_eq!(wire.len(), head + length);
        let mut frames = Frames::new(Side::Server, length);
        assert_eq!(frames.next(&mut wire.as_slice()), Ok(Some(message)));
    }
    // A length may be written longer than it need be.
    assert_eq!(read(Side::Server, &[b"\x82\x7f\0\0\0\0\0\0\0\x01x"]), Ok(vec![frame(Opcode::Binary, true, b"x")]));
}

#[test]
fn fragments_make_a_message_and_control_frames_come_in_between() {
    let ping = frame(Opcode::Ping, true, &[b'p'; 125]);
    let close = frame(Opcode::Close, true, b"\x03\xe8bye");
    let sent = [
        frame(Opcode::Text, false, b"one "),
        ping.clone(),
        frame(Opcode::Continuation, false, b""),
        frame(Opcode::Continuation, false, b"two "),
        frame(Opcode::Pong, true, b""),
        frame(Opcode::Continuation, true, b"three"),
        close.clone(),
    ];
    check(&sent, &[ping, frame(Opcode::Pong, true, b""), frame(Opcode::Text, true, b"one two three"), close]);
    check(&[frame(Opcode::Text, true, b"")], &[frame(Opcode::Text, true, b"")]);
}

#[test]
fn a_message_up_to_the_limit_is_whole_and_a_larger_one_comes_in_pieces() {
    let whole = frame(Opcode::Text, true, &[b'x'; LIMIT]);
    check(std::slice::from_ref(&whole), std::slice::from_ref(&whole));
    let half = [b'x'; LIMIT / 2];
    let halves = [frame(Opcode::Text, false, &half), frame(Opcode::Continuation, true, &half)];
    check(&halves, &[whole]);
    // One byte more, in one frame and in two.
    let large = frame(Opcode::Text, true, &[b'x'; LIMIT + 1]).encode(None);
    let pieces = read(Side::Server, &[&large[..500], &large[500..]]).unwrap();
    let shape = |frame: &Frame| (frame.opcode, frame.is_final, frame.payload.len());
    let shapes: Vec<_> = pieces.iter().map(shape).collect();
    assert_eq!(shapes, [(Opcode::Text, false, 496), (Opcode::Continuation, true, LIMIT + 1 - 496)]);
    let more = [b'x'; LIMIT / 2 + 1];
    let sent = [
        frame(Opcode::Text, false, &half),
        frame(Opcode::Continuation, false, &more),
        frame(Opcode::Ping, true, b""),
        frame(Opcode::Continuation, true, b""),
        frame(Opcode::Text, true, b"next"),
    ];
    let wire: Vec<u8> = sent.iter().flat_map(|frame| frame.encode(None)).collect();
    let shapes: Vec<_> = read(Side::Server, &[&wire]).unwrap().iter().map(shape).collect();
    let expected = [
        (Opcode::Text, false, LIMIT + 1),
        (Opcode::Ping, true, 0),
        (Opcode::Continuation, true, 0),
        (Opcode::Text, true, 4),
    ];
    assert_eq!(shapes, expected);
}

#[test]
fn an_announced_length_takes_no_memory() {
    let mut frames = Frames::new(Side::Server, usize::MAX);
    let mut input: &[u8] = b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xffabc";
    assert_eq!(frames.next(&mut input), Ok(None));
}

#[test]
fn what_is_no_frame_is_said_to_be_none() {
    for reserved in [0x40, 0x20, 0x10] {
        check_error(Side::Server, &[0x81 | reserved, 0], FrameError::Reserved);
    }
    for opcode in [0x83, 0x87, 0x8b, 0x8f] {
        check_error(Side::Server, &[opcode, 0], FrameError::Opcode);
    }
    check_error(Side::Server, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", FrameError::Mask);
    check_error(Side::Client, b"\x81\x05Hello", FrameError::Mask);
    check_error(Side::Server, b"\x09\x00", FrameError::Control);
    check_error(Side::Server, b"\x89\x7e\x00\x7e", FrameError::Control);
    check_error(Side::Server, b"\x88\x01\x03", FrameError::Control);
    check_error(Side::Server, b"\x80\x00", FrameError::Order);
    check_error(Side::Server, b"\x01\x01a\x81\x01b", FrameError::Order);
    check_error(Side::Server, b"\x82\x7f\x80\0\0\0\0\0\0\0", FrameError::Length);
}

#[test]
fn after_an_error_nothing_is_a_frame() {
    let mut frames = Frames::new(Side::Server, LIMIT);
    assert_eq!(frames.next(&mut b"\x80\x00".as_slice()), Err(FrameError::Order));
    for bytes in [b"\x81\x01a".as_slice(), b""] {
        assert_eq!(frames.next(&mut &*bytes), Err(FrameError::Order));
    }
}

#[test]
fn a_frames_bytes_are_not_shown() {
    assert_eq!(format!("{:?}", Frame::text(b"secret".to_vec())), "Frame(Text, 6 bytes, final: true)");
}

fn any_frame() -> impl Strategy<Value = Vec<Frame>> {
    let control = prop::sample::select(vec![Opcode::Ping, Opcode::Pong]);
    let control = (control, prop::collection::vec(any::<u8>(), 0..=125))
        .prop_map(|(opcode, payload)| vec![Frame { opcode, is_final: true, payload }]);
    let opcode = prop::sample::select(vec![Opcode::Text, Opcode::Binary]);
    let parts = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4);
    let message = (opcode, parts).prop_map(|(opcode, parts)| {
        let last = parts.len() - 1;
        let fragment = |(at, payload)| {
            let opcode = if at == 0 { opcode } else { Opcode::Continuation };
            Frame { opcode, is_final: at == last, payload }
        };
        parts.into_iter().enumerate().map(fragment).collect()
    });
    prop_oneof![control, message]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_split_gives_the_same_frames(
        sent in prop::collection::vec(any_frame(), 0..6),
        mask in any::<Option<[u8; 4]>>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let wire: Vec<u8> = sent.iter().flatten().flat_map(|frame| frame.encode(mask)).collect();
        let side = if mask.is_some() { Side::Client } else { Side::Server };
        let whole = sent.iter().map(|frames| Frame {
            opcode: frames[0].opcode,
            is_final: true,
            payload: frames.iter().flat_map(|frame| frame.payload.clone()).collect(),
        });
        prop_assert_eq!(read(side, &pieces(&wire, &cuts)), Ok(whole.collect()));
    }

    #[test]
    fn no_bytes_are_lost_whatever_the_limit(
        sent in prop::collection::vec(any_frame(), 1..4),
        limit in 0_usize..700,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let wire: Vec<u8> = sent.iter().flatten().flat_map(|frame| frame.encode(None)).collect();
        let mut frames = Frames::new(Side::Server, limit);
        let mut found = Vec::new();
        for mut piece in pieces(&wire, &cuts) {
            while let Some(frame) = frames.next(&mut piece).unwrap() {
                found.extend(frame.payload);
            }
        }
        let bytes: Vec<u8> = sent.into_iter().flatten().flat_map(|frame| frame.payload).collect();
        prop_assert_eq!(found, bytes);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        for side in [Side::Client, Side::Server] {
            let _ = read(side, &[&bytes]);
        }
    }
}
