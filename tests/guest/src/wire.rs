//! Frames between a host test and the agent in its machine, over a virtio serial port.
//!
//! A frame is a length (of what follows it, 4 bytes, little endian), a kind, a number that ties an answer to its request (4 bytes),
//! and a payload. One request may be answered by many frames; the last of them is of kind [`Kind::Exit`] or [`Kind::End`].

use std::io::{self, Read, Write};

/// Name of the port that the agent answers on.
pub const AGENT_PORT: &str = "dm-remap.agent";
/// Name of the port that a load reports its events on.
pub const EVENT_PORT: &str = "dm-remap.events";
/// Largest payload that either side sends in one frame.
pub const CHUNK: usize = 256 * 1024;

/// What a frame means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Guest: the agent is up. Sent once, with number 0.
    Ready,
    /// Host: run the payload with `sh -c`.
    Run,
    /// Host: take the steps of the payload, one a line, in the agent itself. The answer is that of a command.
    Steps,
    /// Host: kill the command with this number.
    Kill,
    /// Host: make or empty the file named by the payload; its content follows as [`Kind::Data`], then [`Kind::End`].
    Put,
    /// Host: send the file named by the payload.
    Get,
    /// Guest: some of a command's standard output.
    Stdout,
    /// Guest: some of a command's standard error.
    Stderr,
    /// Guest: a command ended; the payload is its exit status (4 bytes), or minus the signal that ended it.
    Exit,
    /// Either side: some of a file's content.
    Data,
    /// Either side: the end of a file; from the guest the payload is an error's text, empty on success.
    End,
}

const KINDS: [(Kind, u8); 11] = [
    (Kind::Ready, b'r'),
    (Kind::Run, b'R'),
    (Kind::Steps, b'S'),
    (Kind::Kill, b'K'),
    (Kind::Put, b'P'),
    (Kind::Get, b'G'),
    (Kind::Stdout, b'o'),
    (Kind::Stderr, b'e'),
    (Kind::Exit, b'x'),
    (Kind::Data, b'd'),
    (Kind::End, b'.'),
];

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it means.
    pub kind: Kind,
    /// The request that it belongs to.
    pub id: u32,
    /// What [`Kind`] says.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame of these parts.
    pub fn new(kind: Kind, id: u32, payload: impl Into<Vec<u8>>) -> Self {
        Frame { kind, id, payload: payload.into() }
    }

    /// Writes the frame in one call, so that frames of several threads do not mix.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let code = KINDS.iter().find(|k| k.0 == self.kind).map_or(0, |k| k.1);
        let mut bytes = Vec::with_capacity(9 + self.payload.len());
        bytes.extend_from_slice(&(self.payload.len() as u32 + 5).to_le_bytes());
        bytes.push(code);
        bytes.extend_from_slice(&self.id.to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads one frame, waiting for it.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head)?;
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if !(5..=CHUNK + 4096).contains(&len) {
            return Err(bad("a frame of impossible length"));
        }
        let kind =
            KINDS.iter().find(|k| k.1 == head[4]).ok_or_else(|| bad("a frame of unknown kind"))?.0;
        let id = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; len - 5];
        from.read_exact(&mut payload)?;
        Ok(Frame { kind, id, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_as_written() {
        let mut bytes = Vec::new();
        let frames = [
            Frame::new(Kind::Run, 7, "echo"),
            Frame::new(Kind::Exit, 7, [0; 4]),
            Frame::new(Kind::End, 9, []),
        ];
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        for frame in &frames {
            assert_eq!(&Frame::read(&mut rest).unwrap(), frame);
        }
        assert!(Frame::read(&mut rest).is_err());
    }
}
