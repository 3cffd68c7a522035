//! Framing: each message is JSON text that ends with a NUL byte, and its size is limited. Bytes go in and messages come
//! out. There are no sockets here, so the synchronous client and the daemon's async side both use it.

use serde::Serialize;

/// The largest message that either side sends or takes, in bytes without the NUL. The largest real message (a list of a
/// full node's attachments) is well below.
pub const MESSAGE_CAP: usize = 1 << 20;

/// A message that cannot be framed.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// There are more than [`MESSAGE_CAP`] bytes without an end.
    #[error("the message is larger than {MESSAGE_CAP} bytes")]
    TooLarge,
    /// The value cannot be written as JSON.
    #[error("the message cannot be written as JSON")]
    Json(#[source] serde_json::Error),
}

/// A message as bytes, with the NUL at the end. JSON text never contains a NUL byte, because strings escape it.
///
/// # Errors
/// [`FrameError::TooLarge`] above the cap. So the other side never has to drop the connection because of it.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = serde_json::to_vec(message).map_err(FrameError::Json)?;
    if bytes.len() > MESSAGE_CAP {
        return Err(FrameError::TooLarge);
    }
    bytes.push(0);
    Ok(bytes)
}

/// Cuts a stream of bytes into messages.
///
/// ```
/// use ferrule_wire::{FrameError, Frames, encode};
///
/// let mut stream = encode(&"first")?;
/// stream.extend(encode(&"second")?);
///
/// // A read ends anywhere: here in the middle of the second message.
/// let (early, late) = stream.split_at(10);
/// let mut frames = Frames::default();
/// frames.push(early);
/// assert_eq!(frames.pop()?.as_deref(), Some(br#""first""#.as_slice()));
/// assert_eq!(frames.pop()?, None);
/// assert!(frames.is_partial());
/// frames.push(late);
/// assert_eq!(frames.pop()?.as_deref(), Some(br#""second""#.as_slice()));
/// # Ok::<(), FrameError>(())
/// ```
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    /// This many bytes at the front are known to hold no NUL, so that a message that arrives in many pieces is scanned
    /// only once.
    scanned: usize,
}

impl Frames {
    /// Takes what was read from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message without its NUL, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError::TooLarge`] once the message exceeds the cap, whether it has ended or not.
    pub fn pop(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let Some(found) = self.buffer[self.scanned..].iter().position(|&byte| byte == 0) else {
            self.scanned = self.buffer.len();
            return if self.scanned > MESSAGE_CAP { Err(FrameError::TooLarge) } else { Ok(None) };
        };
        let end = self.scanned + found;
        if end > MESSAGE_CAP {
            return Err(FrameError::TooLarge);
        }
        let rest = self.buffer.split_off(end + 1);
        let mut message = std::mem::replace(&mut self.buffer, rest);
        message.pop();
        self.scanned = 0;
        Ok(Some(message))
    }

    /// Whether a part of a message has arrived, but not its end.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_however_the_stream_is_cut() {
        let stream = b"{\"a\":1}\0{}\0\0{\"b\"";
        for piece in 1..stream.len() {
            let mut frames = Frames::default();
            let mut out = Vec::new();
            for bytes in stream.chunks(piece) {
                frames.push(bytes);
                while let Some(message) = frames.pop().unwrap() {
                    out.push(message);
                }
            }
            assert_eq!(out, [b"{\"a\":1}".to_vec(), b"{}".to_vec(), Vec::new()]);
            assert!(frames.is_partial());
        }
    }

    #[test]
    fn the_cap_holds_with_and_without_an_end() {
        let mut endless = Frames::default();
        endless.push(&vec![b'x'; MESSAGE_CAP]);
        assert!(matches!(endless.pop(), Ok(None)));
        endless.push(b"x");
        assert!(matches!(endless.pop(), Err(FrameError::TooLarge)));

        let mut ended = Frames::default();
        ended.push(&vec![b'x'; MESSAGE_CAP]);
        ended.push(b"\0");
        assert_eq!(ended.pop().unwrap().map(|m| m.len()), Some(MESSAGE_CAP));
        ended.push(&vec![b'x'; MESSAGE_CAP + 1]);
        ended.push(b"\0");
        assert!(matches!(ended.pop(), Err(FrameError::TooLarge)));
    }

    #[test]
    fn a_nul_inside_a_string_is_escaped_and_too_large_a_value_is_refused() {
        let bytes = encode(&"a\0b").unwrap();
        assert_eq!(bytes.iter().filter(|&&b| b == 0).count(), 1);
        assert!(matches!(encode(&"x".repeat(MESSAGE_CAP)), Err(FrameError::TooLarge)));
    }
}
