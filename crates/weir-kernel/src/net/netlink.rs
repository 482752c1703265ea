//! The netlink socket: one request at a time, one bounded buffer, every refusal with the kernel's own words.
//!
//! Owns framing, sequence numbers, acknowledgements and retries. Knows nothing of what the messages mean. Invariant:
//! after each call the socket holds no reply that a later call could mistake for its own (sequence numbers are checked).

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer, NetlinkMessage, NlasIterator, ParseableParametrized, parse_string,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

use super::{error::Error, netns::Netns};

/// The kernel fills at most 32 KiB per read of a dump; single replies (a link with its statistics) are far smaller.
const BUFFER_BYTES: usize = 64 * 1024;
/// How long to wait for one reply. Long, because the kernel may hold its lock while it loads a module.
const REPLY_TIMEOUT_SECONDS: i64 = 30;
/// How often a dump is read again when the kernel says that it changed meanwhile.
const DUMP_TRIES: u32 = 8;
/// Bytes of a netlink header, and of the error code after it.
const HEADER_BYTES: usize = 16;
const ERROR_CODE_BYTES: usize = 4;
/// Attribute of an extended acknowledgement that carries the message (`NLMSGERR_ATTR_MSG`).
const ATTR_MESSAGE: u16 = 1;

/// A route netlink socket in one network namespace.
///
/// Can be shared between threads; requests are made one after the other.
#[derive(Debug)]
pub struct Rtnl {
    channel: Mutex<Channel>,
}

struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Rtnl {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let socket = open_socket().map_err(|source| Error::io("open a route netlink socket", source))?;
        Ok(Self {
            channel: Mutex::new(Channel { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER_BYTES) }),
        })
    }

    /// Opens a socket in another network namespace; it can be used from any thread.
    pub fn open_in(netns: &Netns) -> Result<Self, Error> {
        netns.run_in(Self::open)?
    }

    /// Sends a change and waits for the kernel's verdict.
    pub(crate) fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: fmt::Arguments<'_>,
    ) -> Result<(), Error> {
        self.exchange(message, flags | NLM_F_ACK, doing, &mut |_| {}).map(drop)
    }

    /// Asks for one object. `None` is an acknowledgement without an answer.
    pub(crate) fn get(
        &self,
        message: RouteNetlinkMessage,
        doing: fmt::Arguments<'_>,
    ) -> Result<Option<RouteNetlinkMessage>, Error> {
        let mut answer = None;
        self.exchange(message, NLM_F_ACK, doing, &mut |reply| {
            answer.get_or_insert(reply);
        })?;
        Ok(answer)
    }

    /// Reads a whole listing, from the start again when it changed while being read.
    pub(crate) fn dump<T>(
        &self,
        message: &RouteNetlinkMessage,
        doing: fmt::Arguments<'_>,
        mut keep: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..DUMP_TRIES {
            let mut found = Vec::new();
            let consistent = self.exchange(message.clone(), NLM_F_DUMP, doing, &mut |reply| {
                found.extend(keep(reply));
            })?;
            if consistent {
                return Ok(found);
            }
        }
        Err(Error::Interrupted { doing: doing.to_string(), tries: DUMP_TRIES })
    }

    /// Returns whether the answer is of one piece (false: a dump that changed while it was being read).
    fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: fmt::Arguments<'_>,
        sink: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> Result<bool, Error> {
        // A panic in `sink` leaves unread replies at worst; they are recognised by their old sequence number.
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = channel.send(message, flags, doing)?;
        let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut consistent = true;
        loop {
            channel.receive(doing)?;
            for frame in Frames(&channel.buffer) {
                let frame = frame.map_err(|reason| unreadable(doing, reason))?;
                if frame.sequence_number() != sequence {
                    continue;
                }
                if frame.flags() & NLM_F_DUMP_INTR != 0 {
                    consistent = false;
                }
                match frame.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => return verdict(&frame, doing).map(|()| consistent),
                    kind => match RouteNetlinkMessage::parse_with_param(frame.payload(), kind) {
                        Ok(reply) => sink(reply),
                        // One exotic object must not hide a whole listing.
                        Err(error) if is_dump => {
                            tracing::warn!(%error, kind, "left out an object that could not be decoded");
                        }
                        Err(error) => return Err(unreadable(doing, error.to_string())),
                    },
                }
            }
        }
    }
}

impl Channel {
    fn send(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: fmt::Arguments<'_>,
    ) -> Result<u32, Error> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        retry_interrupted(|| self.socket.send(&bytes, 0))
            .map_err(|source| Error::io(doing.to_string(), source))?;
        Ok(self.sequence)
    }

    /// Replaces the buffer's content with the next datagram from the kernel.
    fn receive(&mut self, doing: fmt::Arguments<'_>) -> Result<(), Error> {
        loop {
            self.buffer.clear();
            let (length, sender) =
                retry_interrupted(|| self.socket.recv_from(&mut self.buffer, libc::MSG_TRUNC)).map_err(
                    |source| match source.raw_os_error() {
                        Some(libc::EAGAIN) => Error::io(
                            doing.to_string(),
                            std::io::Error::new(
                                std::io::ErrorKind::TimedOut,
                                format!("the kernel did not answer within {REPLY_TIMEOUT_SECONDS} s"),
                            ),
                        ),
                        _ => Error::io(doing.to_string(), source),
                    },
                )?;
            if sender.port_number() != 0 {
                continue; // another process, not the kernel
            }
            if length > self.buffer.len() {
                return Err(unreadable(doing, format!("{length} bytes do not fit the buffer")));
            }
            return Ok(());
        }
    }
}

fn open_socket() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Without these two the kernel still answers, with less to say and looser checks (they came with 4.12 and 4.20).
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    socket.set_netlink_get_strict_chk(true)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(REPLY_TIMEOUT_SECONDS, 0))?;
    Ok(socket)
}

/// Repeats a system call that a signal interrupted.
pub(super) fn retry_interrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

fn unreadable(doing: fmt::Arguments<'_>, reason: impl Into<String>) -> Error {
    Error::Unreadable { doing: doing.to_string(), reason: reason.into() }
}

/// The messages of one datagram.
pub(super) struct Frames<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Frames<'a> {
    type Item = Result<NetlinkBuffer<&'a [u8]>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let frame = match NetlinkBuffer::new_checked(self.0) {
            Ok(frame) => frame,
            Err(error) => {
                self.0 = &[];
                return Some(Err(error.to_string()));
            }
        };
        let length = frame.length() as usize;
        let (whole, _) = self.0.split_at(length);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok(NetlinkBuffer::new(whole)))
    }
}

/// Reads an NLMSG_ERROR or NLMSG_DONE: its code and, after the original request, the kernel's explanation.
fn verdict(frame: &NetlinkBuffer<&[u8]>, doing: fmt::Arguments<'_>) -> Result<(), Error> {
    let payload = frame.payload();
    // A DONE without payload is allowed and means success.
    let code = payload.first_chunk::<ERROR_CODE_BYTES>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 {
        return Ok(());
    }
    let attributes = if frame.message_type() == NLMSG_DONE {
        ERROR_CODE_BYTES
    } else if frame.flags() & NLM_F_CAPPED != 0 {
        ERROR_CODE_BYTES + HEADER_BYTES
    } else {
        // The whole request is repeated; its length is its first word.
        let request = payload
            .get(ERROR_CODE_BYTES..)
            .and_then(<[u8]>::first_chunk)
            .map_or(HEADER_BYTES, |bytes| u32::from_ne_bytes(*bytes) as usize);
        ERROR_CODE_BYTES + request.next_multiple_of(4)
    };
    let detail = (frame.flags() & NLM_F_ACK_TLVS != 0).then(|| payload.get(attributes..)).flatten().and_then(
        |bytes| {
            NlasIterator::new(bytes)
                .map_while(Result::ok)
                .find(|attribute| attribute.kind() == ATTR_MESSAGE)
                .and_then(|attribute| parse_string(attribute.value()).ok())
        },
    );
    Err(Error::Refused { doing: doing.to_string(), errno: Errno::from_raw(code.wrapping_neg()), detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An NLMSG_ERROR frame as the kernel sends it: header, code, the request's header, then attributes.
    fn error_frame(code: i32, text: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend(code.to_ne_bytes());
        frame.extend([0; HEADER_BYTES]);
        frame.extend((4 + text.len() as u16).to_ne_bytes());
        frame.extend(ATTR_MESSAGE.to_ne_bytes());
        frame.extend(text);
        let length = frame.len() as u32;
        frame.resize(frame.len().next_multiple_of(4), 0);
        frame[..4].copy_from_slice(&length.to_ne_bytes());
        frame[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        frame[6..8].copy_from_slice(&(NLM_F_CAPPED | NLM_F_ACK_TLVS).to_ne_bytes());
        frame
    }

    #[test]
    fn the_kernels_words_are_kept() {
        let bytes = error_frame(-libc::EINVAL, b"Invalid prefix length\0");
        let frame = Frames(&bytes).next().unwrap().unwrap();
        let error = verdict(&frame, format_args!("add a route")).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EINVAL));
        assert!(error.to_string().ends_with("(EINVAL): Invalid prefix length"), "{error}");
    }

    #[test]
    fn frames_split_a_datagram_and_stop_at_nonsense() {
        let one = error_frame(0, b"ab\0");
        let mut two = one.clone();
        two.extend(&one);
        assert_eq!(Frames(&two).flatten().count(), 2);
        two.truncate(one.len() + 10);
        let results: Vec<_> = Frames(&two).map(|frame| frame.is_ok()).collect();
        assert_eq!(results, [true, false]);
    }
}
