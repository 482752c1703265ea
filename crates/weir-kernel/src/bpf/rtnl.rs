//! What rtnetlink says about XDP: which program is attached, and why a driver refuses one.
//!
//! Owns: `IFLA_XDP` in both directions. May not touch: links, pins. Invariant: asking for a reason leaves nothing
//! attached.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Error, XdpMode, program, sys};

/// The XDP program on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpAttachment {
    /// Where in the stack it runs; `None` for hardware offload.
    pub mode: Option<XdpMode>,
    /// The kernel's id of the program.
    pub program_id: u32,
    /// The program's name, as far as the kernel keeps it (15 bytes); empty where it may not be asked.
    pub program_name: String,
}

/// The XDP program attached to interface `ifindex` of this network namespace, whoever attached it.
pub fn query(ifindex: u32) -> Result<Option<XdpAttachment>, Error> {
    let attributes = ask(ifindex).map_err(|error| match error.raw_os_error() {
        Some(libc::ENODEV) => Error::NoInterface { interface: format!("with index {ifindex}") },
        _ => Error::doing(format!("ask which XDP program interface {ifindex} has"))(error),
    })?;
    let (mut mode, mut id) = (None, 0);
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::Driver) => mode = Some(XdpMode::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some(XdpMode::Generic),
            LinkXdp::ProgId(program) => id = program,
            _ => {}
        }
    }
    if id == 0 {
        return Ok(None);
    }
    let program_name =
        sys::program_by_id(id).and_then(|fd| program::info_of(&fd)).map(|info| info.name).unwrap_or_default();
    Ok(Some(XdpAttachment { mode, program_id: id, program_name }))
}

fn ask(ifindex: u32) -> io::Result<Vec<LinkXdp>> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    let reply = exchange(RouteNetlinkMessage::GetLink(request), 0)?;
    let parsed = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match parsed.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link
            .attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::Xdp(xdp) => Some(xdp),
                _ => None,
            })
            .unwrap_or_default()),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;

/// What the kernel or driver says against attaching `program`, in its own words.
///
/// bpf(2) gives an error number only; rtnetlink adds a sentence to the same refusal. So the refused attachment is tried
/// once more the old way. Should it succeed this time, it is taken away again.
pub(crate) fn refusal(program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> Option<String> {
    let set = |fd: i32, flags: u32| {
        let mut request = LinkMessage::default();
        request.header.index = ifindex;
        request.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(fd), LinkXdp::Flags(flags)]));
        exchange(RouteNetlinkMessage::SetLink(request), NLM_F_ACK)
    };
    let reply = set(program.as_raw_fd(), mode.flag() | XDP_FLAGS_UPDATE_IF_NOEXIST).ok()?;
    let (code, sentence) = acknowledgement(&reply)?;
    if code == 0 {
        if let Err(error) = set(-1, mode.flag()) {
            tracing::warn!(ifindex, %error, "cannot detach the XDP program again that was attached to learn a reason");
        }
        return None;
    }
    sentence
}

/// One request, one answer.
fn exchange(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<u8>> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);

    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    socket.send(&bytes, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    Ok(reply)
}

/// Error number (0 or negative) and message of an `NLMSG_ERROR`.
fn acknowledgement(reply: &[u8]) -> Option<(i32, Option<String>)> {
    const NLMSG_ERROR: u16 = 2;
    const NLM_F_CAPPED: u16 = 0x100;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    const HEADER: usize = 16;
    let buffer = NetlinkBuffer::new_checked(reply).ok()?;
    if buffer.message_type() != NLMSG_ERROR {
        return None;
    }
    let code = i32::from_ne_bytes(reply.get(HEADER..HEADER + 4)?.try_into().ok()?);
    // The request's header follows, and the rest of the request unless it was left out.
    let request = reply.get(HEADER + 4..)?;
    let request_len = u32::from_ne_bytes(request.get(..4)?.try_into().ok()?) as usize;
    let skip = if buffer.flags() & NLM_F_CAPPED != 0 { HEADER } else { request_len.next_multiple_of(4) };
    let mut attributes = request.get(skip..).unwrap_or_default();
    while let Some((head, _)) = attributes.split_at_checked(4) {
        let len = u16::from_ne_bytes([head[0], head[1]]) as usize;
        let kind = u16::from_ne_bytes([head[2], head[3]]) & 0x3fff;
        let Some(value) = attributes.get(4..len) else { break };
        if kind == NLMSGERR_ATTR_MSG {
            let text = String::from_utf8_lossy(value);
            return Some((code, Some(text.trim_end_matches('\0').to_owned())));
        }
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Some((code, None))
}

#[cfg(test)]
mod tests {
    use super::acknowledgement;

    #[test]
    fn a_refusal_is_read_with_its_sentence() {
        let mut reply = vec![0u8; 36];
        reply[4..6].copy_from_slice(&2u16.to_ne_bytes());
        reply[6..8].copy_from_slice(&0x300u16.to_ne_bytes());
        reply[16..20].copy_from_slice(&(-95i32).to_ne_bytes());
        reply[20..24].copy_from_slice(&60u32.to_ne_bytes());
        reply.extend([9, 0, 1, 0]);
        reply.extend(b"nope\0\0\0\0");
        let len = reply.len() as u32;
        reply[..4].copy_from_slice(&len.to_ne_bytes());
        assert_eq!(acknowledgement(&reply), Some((-95, Some("nope".to_owned()))));
        // The message cut short at every place: never a panic, never an invented sentence.
        for end in 0..reply.len() {
            let cut = acknowledgement(&reply[..end]);
            assert!(cut.is_none_or(|(_, sentence)| sentence.is_none()), "cut at {end}");
        }
    }
}
