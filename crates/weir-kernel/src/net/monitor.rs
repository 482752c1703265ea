//! The monitor: tells when links, addresses, routes or neighbours change.
//!
//! Owns one multicast netlink socket and one thread. It forwards what the kernel says and keeps no state: after
//! [`Event::Overrun`] something was lost, and the receiver must read everything again. Dropping it stops the thread.

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use netlink_packet_core::ParseableParametrized;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        socket::{setsockopt, sockopt},
    },
};
use std::os::fd::AsFd;

use super::{
    address::{self, Address},
    error::Error,
    link::{self, Link},
    neighbour::{self, Neighbour},
    netlink::{Frames, Rtnl},
    netns::Netns,
    route::{self, Route},
};

/// RTNLGRP_LINK, _NEIGH, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];
/// The kernel's queue for this socket in bytes; some thousands of events.
const QUEUE_BYTES: usize = 2 * 1024 * 1024;
const BUFFER_BYTES: usize = 64 * 1024;
/// How long to wait before an overrun is offered again to a full channel, in milliseconds.
const REOFFER_MILLISECONDS: u16 = 50;
/// How long dropping waits for the thread.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Whether something appeared or changed, or went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is there, new or different.
    Set,
    /// It is gone.
    Gone,
}

/// A change in the kernel's network state.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A link.
    Link(Change, Link),
    /// An address.
    Address(Change, Address),
    /// A route.
    Route(Change, Route),
    /// A neighbour.
    Neighbour(Change, Neighbour),
    /// Events were lost: read everything again.
    Overrun,
}

impl Event {
    /// The link it is about; `None` for an overrun and for routes without a single link.
    pub fn ifindex(&self) -> Option<u32> {
        match self {
            Self::Link(_, link) => Some(link.index),
            Self::Address(_, address) => Some(address.ifindex),
            Self::Route(_, route) => route.oif,
            Self::Neighbour(_, neighbour) => Some(neighbour.ifindex),
            Self::Overrun => None,
        }
    }
}

/// A running subscription.
#[derive(Debug)]
pub struct Monitor {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    stopped: Receiver<()>,
}

impl Monitor {
    /// Subscribes in the calling thread's namespace and calls `deliver` on the monitor's own thread for each event.
    /// `deliver` must not block: events that pile up meanwhile become an [`Event::Overrun`].
    ///
    /// Events that happen after this returns are seen; read the present state after it, not before.
    pub fn start(mut deliver: impl FnMut(Event) + Send + 'static) -> Result<Self, Error> {
        Self::spawn(move |event| {
            deliver(event);
            true
        })
    }

    /// Subscribes and delivers to a channel that holds up to `capacity` events. When it is full, events are dropped
    /// and one [`Event::Overrun`] follows as soon as there is room.
    pub fn channel(capacity: usize) -> Result<(Self, Receiver<Event>), Error> {
        let (sender, receiver) = mpsc::sync_channel(capacity.max(1));
        Ok((Self::spawn(move |event| offer(&sender, event))?, receiver))
    }

    /// Like [`Monitor::channel`], in another namespace.
    pub fn channel_in(netns: &Netns, capacity: usize) -> Result<(Self, Receiver<Event>), Error> {
        netns.run_in(|| Self::channel(capacity))?
    }

    /// `deliver` returns whether the event was taken.
    fn spawn(deliver: impl FnMut(Event) -> bool + Send + 'static) -> Result<Self, Error> {
        let failed = |source| Error::io("watch links, addresses, routes and neighbours", source);
        let socket = open_socket().map_err(failed)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| failed(errno.into()))?;
        let stop = Arc::new(stop);
        let (done, stopped) = mpsc::sync_channel(1);
        let watched = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("weir-netmon".into())
            .spawn(move || {
                watch(&socket, &watched, deliver);
                let _ = done.try_send(());
            })
            .map_err(failed)?;
        Ok(Self { stop, thread: Some(thread), stopped })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Only fails when the counter is full, which wakes the thread as well.
        let _ = self.stop.write(1);
        // An error here means that the thread is gone already, by a panic in `deliver`.
        if self.stopped.recv_timeout(STOP_TIMEOUT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the network monitor is blocked by its receiver; leaving it behind");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the network monitor's receiver panicked");
        }
    }
}

impl Rtnl {
    /// Decodes one multicast message; `None` for what the monitor does not report.
    fn event(message: RouteNetlinkMessage) -> Option<Event> {
        use RouteNetlinkMessage as Message;
        Some(match message {
            // A bridge announces its ports in link messages of its own family; a "deleted" port is still a link.
            Message::NewLink(link) | Message::DelLink(link)
                if link.header.interface_family == AddressFamily::Bridge =>
            {
                return None;
            }
            Message::NewLink(message) => Event::Link(Change::Set, link::decode(message)),
            Message::DelLink(message) => Event::Link(Change::Gone, link::decode(message)),
            Message::NewAddress(message) => Event::Address(Change::Set, address::decode(&message)?),
            Message::DelAddress(message) => Event::Address(Change::Gone, address::decode(&message)?),
            Message::NewRoute(message) => Event::Route(Change::Set, route::decode(&message)?),
            Message::DelRoute(message) => Event::Route(Change::Gone, route::decode(&message)?),
            Message::NewNeighbour(message) => Event::Neighbour(Change::Set, neighbour::decode(&message)?),
            Message::DelNeighbour(message) => Event::Neighbour(Change::Gone, neighbour::decode(&message)?),
            _ => return None,
        })
    }
}

fn open_socket() -> std::io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    // Beyond rmem_max with CAP_NET_ADMIN; a smaller queue without it only means overruns sooner.
    if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &QUEUE_BYTES)?;
    }
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok(socket)
}

fn offer(sender: &SyncSender<Event>, event: Event) -> bool {
    match sender.try_send(event) {
        // Disconnected: nobody listens any more; the monitor will be dropped as well.
        Ok(()) | Err(TrySendError::Disconnected(_)) => true,
        Err(TrySendError::Full(_)) => false,
    }
}

fn watch(socket: &Socket, stop: &EventFd, mut deliver: impl FnMut(Event) -> bool) {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    let mut overrun = false;
    loop {
        if overrun {
            overrun = !deliver(Event::Overrun);
        }
        let timeout = if overrun { PollTimeout::from(REOFFER_MILLISECONDS) } else { PollTimeout::NONE };
        let mut watched =
            [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if let Err(errno) = poll(&mut watched, timeout) {
            if errno == nix::errno::Errno::EINTR {
                continue;
            }
            tracing::error!(%errno, "the network monitor cannot wait for events and stops");
            deliver(Event::Overrun);
            return;
        }
        if watched[0].any().unwrap_or(false) {
            return;
        }
        buffer.clear();
        match socket.recv_from(&mut buffer, libc::MSG_TRUNC) {
            Ok((length, sender)) if sender.port_number() == 0 => {
                overrun |= length > buffer.len();
                for frame in Frames(&buffer) {
                    let decoded = frame.and_then(|frame| {
                        RouteNetlinkMessage::parse_with_param(frame.payload(), frame.message_type())
                            .map_err(|error| error.to_string())
                    });
                    match decoded {
                        Ok(message) => {
                            if let Some(event) = Rtnl::event(message) {
                                // Once something was dropped, later events only come after the overrun.
                                overrun = overrun || !deliver(event);
                            }
                        }
                        // Something changed that cannot be read: as good as lost.
                        Err(error) => {
                            tracing::warn!(%error, "the network monitor could not decode an event");
                            overrun = true;
                        }
                    }
                }
            }
            Ok(_) => {} // another process, not the kernel
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => {}
                Some(libc::ENOBUFS) => overrun = true,
                _ => {
                    tracing::error!(%error, "the network monitor cannot read events and stops");
                    deliver(Event::Overrun);
                    return;
                }
            },
        }
    }
}
