//! Offloads and driver names, by the `SIOCETHTOOL` ioctl.
//!
//! Owns that ioctl and the structures it takes. The ioctl rather than ethtool's netlink family: it has the same few
//! switches on every kernel weir supports.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{error::Error, netns::Netns};

/// `<linux/sockios.h>`
const SIOCETHTOOL: u32 = 0x8946;
/// `<linux/ethtool.h>`
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// What a link may do for the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offload {
    /// Leave checksums of sent packets to the hardware; on veth: leave them unfinished.
    TxChecksum,
    /// Trust the hardware's verdict on checksums of received packets.
    RxChecksum,
    /// Let the hardware cut large TCP segments.
    Tso,
    /// Cut large segments as late as possible.
    Gso,
    /// Merge received segments in the stack.
    Gro,
    /// Merge received segments in the hardware.
    Lro,
}

impl Offload {
    /// The commands that read and write it.
    fn commands(self) -> (u32, u32) {
        match self {
            Self::RxChecksum => (0x14, 0x15),
            Self::TxChecksum => (0x16, 0x17),
            Self::Tso => (0x1e, 0x1f),
            Self::Gso => (0x23, 0x24),
            Self::Gro => (0x2b, 0x2c),
            Self::Lro => (ETHTOOL_GFLAGS, ETHTOOL_SFLAGS),
        }
    }

    /// The word `ethtool -K` uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::TxChecksum => "tx",
            Self::RxChecksum => "rx",
            Self::Tso => "tso",
            Self::Gso => "gso",
            Self::Gro => "gro",
            Self::Lro => "lro",
        }
    }
}

/// What drives a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverInfo {
    /// Driver name, for example "veth" or "mlx5_core".
    pub driver: String,
    /// Driver version; most use the kernel's.
    pub version: String,
    /// Firmware version, if any.
    pub firmware: String,
    /// Bus address, for example "0000:3b:00.0".
    pub bus: String,
}

/// A socket to ask about links in one network namespace.
#[derive(Debug)]
pub struct Ethtool {
    socket: OwnedFd,
}

/// `struct ethtool_value`
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// `struct ethtool_drvinfo`
#[repr(C)]
struct RawDriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    erom_version: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

impl Ethtool {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(|errno| Error::io("open a socket for ethtool", errno))?;
        Ok(Self { socket })
    }

    /// Opens a socket in another namespace; it can be used from any thread.
    pub fn open_in(netns: &Netns) -> Result<Self, Error> {
        netns.run_in(Self::open)?
    }

    /// The link's driver.
    pub fn driver(&self, link: &str) -> Result<DriverInfo, Error> {
        let mut info = RawDriverInfo {
            command: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            version: [0; 32],
            firmware: [0; 32],
            bus: [0; 32],
            erom_version: [0; 32],
            reserved: [0; 12],
            counts: [0; 5],
        };
        // SAFETY: ETHTOOL_GDRVINFO reads and writes one `struct ethtool_drvinfo`, which `RawDriverInfo` is (196 bytes,
        // checked below); it is exclusively borrowed for the call.
        unsafe { self.ioctl(link, &raw mut info) }
            .map_err(|source| Error::io(format!("read the driver of link {link}"), source))?;
        Ok(DriverInfo {
            driver: text(&info.driver),
            version: text(&info.version),
            firmware: text(&info.firmware),
            bus: text(&info.bus),
        })
    }

    /// Whether an offload is on.
    pub fn offload(&self, link: &str, offload: Offload) -> Result<bool, Error> {
        let data = self.value(link, offload)?;
        Ok(match offload {
            Offload::Lro => data & ETH_FLAG_LRO != 0,
            _ => data != 0,
        })
    }

    /// Turns an offload on or off; returns whether that was a change. Fixed offloads are an error.
    pub fn set_offload(&self, link: &str, offload: Offload, on: bool) -> Result<bool, Error> {
        let doing = || {
            let state = if on { "on" } else { "off" };
            format!("turn {} {state} on link {link}", offload.name())
        };
        if self.offload(link, offload)? == on {
            return Ok(false);
        }
        let data = match (offload, on) {
            (Offload::Lro, true) => self.value(link, offload)? | ETH_FLAG_LRO,
            (Offload::Lro, false) => self.value(link, offload)? & !ETH_FLAG_LRO,
            _ => u32::from(on),
        };
        self.exchange(link, offload.commands().1, data).map_err(|source| Error::io(doing(), source))?;
        // The kernel drops what depends on another offload without an error.
        if self.offload(link, offload)? == on {
            return Ok(true);
        }
        Err(Error::NotApplied {
            doing: doing(),
            found: format!("{} {}", offload.name(), if on { "off" } else { "on" }),
        })
    }

    fn value(&self, link: &str, offload: Offload) -> Result<u32, Error> {
        self.exchange(link, offload.commands().0, 0)
            .map_err(|source| Error::io(format!("read offload {} of link {link}", offload.name()), source))
    }

    fn exchange(&self, link: &str, command: u32, data: u32) -> io::Result<u32> {
        let mut value = Value { command, data };
        // SAFETY: every command passed here reads and writes one `struct ethtool_value`, which `Value` is; it is
        // exclusively borrowed for the call.
        unsafe { self.ioctl(link, &raw mut value) }?;
        Ok(value.data)
    }

    /// # Safety
    /// `argument` must point to the structure that its own `command` takes, valid for reads and writes.
    unsafe fn ioctl<T>(&self, link: &str, argument: *mut T) -> io::Result<()> {
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: argument.cast() },
        };
        // The last byte stays zero: a longer name cannot be a link's.
        if link.len() >= libc::IFNAMSIZ {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        // SAFETY: SIOCETHTOOL takes a `struct ifreq` with a zero-terminated name, which `request` is, and follows
        // `ifru_data`, which is valid by this function's contract. The socket is open.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

const _: () = assert!(size_of::<RawDriverInfo>() == 196);

fn text(bytes: &[u8]) -> String {
    CStr::from_bytes_until_nul(bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}
