//! WebSocket framing of one direction (RFC 6455 §5): bytes in any split → frames, and frames → bytes.
//!
//! Whoever reads gets whole messages: fragments are put together, and control frames between them come in between. A message
//! larger than the limit comes in pieces, as it arrives. No extension is known, so a reserved bit is an error. Text is not
//! checked for UTF-8: whoever it is for does that.

use thiserror::Error;

/// Longest payload of a control frame, in bytes.
const CONTROL_BYTES_MAX: u64 = 125;
/// Longest head of a frame, in bytes.
const HEAD_BYTES_MAX: usize = 14;
/// The bit that says that a frame is the last of its message.
const FINAL: u8 = 0x80;
/// The bits that only extensions may set.
const RESERVED: u8 = 0x70;
/// The bit that says that the payload is masked.
const MASKED: u8 = 0x80;
/// Says that the length stands in the next two bytes.
const LENGTH_16: u8 = 126;
/// Says that it stands in the next eight.
const LENGTH_64: u8 = 127;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of a message that has begun.
    Continuation,
    /// A message of text, or its beginning.
    Text,
    /// A message of bytes, or its beginning.
    Binary,
    /// Nothing follows.
    Close,
    /// Wants a pong.
    Ping,
    /// Answers a ping.
    Pong,
}

impl Opcode {
    fn read(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A frame: a control frame, a whole message, or a piece of one that is larger than the limit.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub opcode: Opcode,
    /// Nothing more of its message follows.
    pub is_final: bool,
    /// Its bytes, not masked.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A message of text.
    #[must_use]
    pub fn text(payload: Vec<u8>) -> Self {
        Self { opcode: Opcode::Text, is_final: true, payload }
    }

    /// The end, with a code of RFC 6455 §7.4 and, for people, why.
    #[must_use]
    pub fn close(code: u16, reason: &'static str) -> Self {
        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
        Self { opcode: Opcode::Close, is_final: true, payload }
    }

    /// As it goes over the wire: with a mask towards a server, without towards a client.
    #[must_use]
    pub fn encode(&self, mask: Option<[u8; 4]>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES_MAX + self.payload.len());
        bytes.push(self.opcode.bits() | if self.is_final { FINAL } else { 0 });
        let is_masked = if mask.is_some() { MASKED } else { 0 };
        match (u8::try_from(self.payload.len()), u16::try_from(self.payload.len())) {
            (Ok(length), _) if length < LENGTH_16 => bytes.push(is_masked | length),
            (_, Ok(length)) => {
                bytes.push(is_masked | LENGTH_16);
                bytes.extend_from_slice(&length.to_be_bytes());
            }
            (_, Err(_)) => {
                bytes.push(is_masked | LENGTH_64);
                bytes.extend_from_slice(&(self.payload.len() as u64).to_be_bytes());
            }
        }
        bytes.extend(mask.into_iter().flatten());
        let head = bytes.len();
        bytes.extend_from_slice(&self.payload);
        if let Some(mask) = mask {
            apply(mask, 0, bytes.get_mut(head..).unwrap_or_default());
        }
        bytes
    }
}

impl std::fmt::Debug for Frame {
    /// Never shows what is in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { opcode, is_final, payload } = self;
        write!(f, "Frame({opcode:?}, {} bytes, final: {is_final})", payload.len())
    }
}

/// Why bytes are no frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// An extension that was not agreed on.
    #[error("a reserved bit is set")]
    Reserved,
    /// None of the known ones.
    #[error("the opcode is unknown")]
    Opcode,
    /// Clients mask, servers do not.
    #[error("the frame is masked where it must not be, or not where it must")]
    Mask,
    /// Longer than 125 bytes, in fragments, or a close with half a code.
    #[error("the control frame is malformed")]
    Control,
    /// A continuation of nothing, or a message within a message.
    #[error("the fragments are out of order")]
    Order,
    /// Beyond 63 bits.
    #[error("the length is impossible")]
    Length,
}

/// Whose frames they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Masked.
    Client,
    /// Not masked.
    Server,
}

/// The frames of one direction.
#[derive(Debug)]
pub struct Frames {
    side: Side,
    message_bytes_max: u64,
    /// The head of which the end has not been seen.
    head: Vec<u8>,
    /// The frame of which the end has not been seen.
    open: Option<Head>,
    /// The message of which the end has not been seen.
    message: Option<Message>,
    /// The payload of the control frame of which the end has not been seen.
    control: Vec<u8>,
    error: Option<FrameError>,
}

/// The head of a frame, and how far the frame has come.
#[derive(Clone, Copy, Debug)]
struct Head {
    opcode: Opcode,
    is_final: bool,
    mask: Option<[u8; 4]>,
    length: u64,
    taken: u64,
}

#[derive(Debug)]
struct Message {
    /// Of the next frame to be handed on.
    opcode: Opcode,
    payload: Vec<u8>,
    is_oversized: bool,
}

impl Frames {
    /// Frames that this side sends. Messages up to so many bytes are handed on whole.
    #[must_use]
    pub fn new(side: Side, message_bytes_max: usize) -> Self {
        let message_bytes_max = message_bytes_max as u64;
        let (head, control) = (Vec::new(), Vec::new());
        Self { side, message_bytes_max, head, open: None, message: None, control, error: None }
    }

    /// Bytes of messages that have come and are not handed on.
    #[must_use]
    pub fn held(&self) -> usize {
        self.message.as_ref().map_or(0, |message| message.payload.len())
    }

    /// The next frame in `input`, which is moved past what was read. `None` when all of it was read and more is needed.
    ///
    /// # Errors
    ///
    /// The bytes are no frames; nor is anything that follows.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.read(input).inspect_err(|error| self.error = Some(*error))
    }

    fn read(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        loop {
            let Some(head) = self.open else {
                if !self.begin(input)? {
                    return Ok(None);
                }
                // What was held is too large together with what comes.
                if let Some(frame) = self.hand_on(false) {
                    return Ok(Some(frame));
                }
                continue;
            };
            if let Some(frame) = self.fill(head, input) {
                return Ok(Some(frame));
            }
            if input.is_empty() {
                return Ok(None);
            }
        }
    }

    /// Reads on in a head. Is it whole?
    fn begin(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        while let Some((byte, rest)) = input.split_first() {
            self.head.push(*byte);
            *input = rest;
            if let Some(head) = read_head(&self.head, self.side)? {
                self.head.clear();
                self.enter(head)?;
                self.open = Some(head);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Does the frame belong here?
    fn enter(&mut self, head: Head) -> Result<(), FrameError> {
        match (head.opcode, &self.message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Continuation, None) | (Opcode::Text | Opcode::Binary, Some(_)) => return Err(FrameError::Order),
            (Opcode::Continuation, Some(_)) => {}
            (Opcode::Text | Opcode::Binary, None) => {
                self.message = Some(Message { opcode: head.opcode, payload: Vec::new(), is_oversized: false });
            }
        }
        if let Some(message) = &mut self.message {
            let length = head.length.saturating_add(message.payload.len() as u64);
            message.is_oversized |= length > self.message_bytes_max;
        }
        Ok(())
    }

    /// Takes what there is of a frame. Returns what can be handed on.
    fn fill(&mut self, mut head: Head, input: &mut &[u8]) -> Option<Frame> {
        // So that the first piece of what is too large in one frame is not all of it.
        let most = if head.opcode.is_control() { CONTROL_BYTES_MAX } else { self.message_bytes_max.max(1) };
        let left = usize::try_from((head.length - head.taken).min(most)).unwrap_or(usize::MAX);
        let (chunk, rest) = input.split_at(left.min(input.len()));
        *input = rest;
        let payload = match &mut self.message {
            Some(message) if !head.opcode.is_control() => &mut message.payload,
            Some(_) | None => &mut self.control,
        };
        let start = payload.len();
        payload.extend_from_slice(chunk);
        if let Some(mask) = head.mask {
            apply(mask, head.taken, payload.get_mut(start..).unwrap_or_default());
        }
        head.taken += chunk.len() as u64;
        let is_whole = head.taken == head.length;
        self.open = (!is_whole).then_some(head);
        if head.opcode.is_control() {
            let Head { opcode, is_final, .. } = head;
            return is_whole.then(|| Frame { opcode, is_final, payload: std::mem::take(&mut self.control) });
        }
        self.hand_on(is_whole && head.is_final)
    }

    /// The message, if all of it is there, or a piece of one that is too large to wait for.
    fn hand_on(&mut self, is_final: bool) -> Option<Frame> {
        if is_final {
            let Message { opcode, payload, .. } = self.message.take()?;
            return Some(Frame { opcode, is_final, payload });
        }
        let message = self.message.as_mut().filter(|message| message.is_oversized && !message.payload.is_empty())?;
        let payload = std::mem::take(&mut message.payload);
        let opcode = std::mem::replace(&mut message.opcode, Opcode::Continuation);
        Some(Frame { opcode, is_final, payload })
    }
}

/// The head that `bytes` are, or `None` when they are only the beginning of one.
fn read_head(bytes: &[u8], side: Side) -> Result<Option<Head>, FrameError> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & RESERVED != 0 {
        return Err(FrameError::Reserved);
    }
    let opcode = Opcode::read(first & 0x0f).ok_or(FrameError::Opcode)?;
    let is_final = first & FINAL != 0;
    let is_masked = second & MASKED != 0;
    if is_masked != (side == Side::Client) {
        return Err(FrameError::Mask);
    }
    let Some((length, rest)) = read_length(second & !MASKED, rest) else { return Ok(None) };
    if length > u64::MAX >> 1 {
        return Err(FrameError::Length);
    }
    let half_a_code = opcode == Opcode::Close && length == 1;
    if opcode.is_control() && (!is_final || length > CONTROL_BYTES_MAX || half_a_code) {
        return Err(FrameError::Control);
    }
    if !is_masked {
        return Ok(Some(Head { opcode, is_final, mask: None, length, taken: 0 }));
    }
    let mask = rest.first_chunk().copied();
    Ok(mask.map(|mask| Head { opcode, is_final, mask: Some(mask), length, taken: 0 }))
}

/// The length of a payload and what follows it; `None` when more is needed.
fn read_length(short: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    Some(match short {
        LENGTH_16 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u16::from_be_bytes(*length).into(), rest)
        }
        LENGTH_64 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u64::from_be_bytes(*length), rest)
        }
        length => (length.into(), rest),
    })
}

/// Puts the mask on, or takes it off, bytes that stand `offset` bytes into their payload.
fn apply(mut mask: [u8; 4], offset: u64, bytes: &mut [u8]) {
    mask.rotate_left((offset % 4) as usize);
    for chunk in bytes.chunks_mut(mask.len()) {
        for (byte, key) in chunk.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
}
