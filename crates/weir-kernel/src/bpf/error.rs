//! Why the BPF side failed: one line of cause, one line of advice.

use std::{io, path::PathBuf};

/// Why something with programs, maps, pins or attachments failed.
///
/// Displays as one line of cause and one line of advice, separated by a newline.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call or file operation failed.
    #[error("cannot {doing}: {source}\n{}", advice(source))]
    System {
        /// What was being done, to what, as a verb phrase.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// Another process uses the state directory.
    #[error(
        "cannot use the state directory {}: process {pid} is using it\n\
         stop that process first, or give this one another state directory", path.display()
    )]
    StateDirBusy {
        /// The directory.
        path: PathBuf,
        /// Who holds its lock; "unknown" when the lock file does not say.
        pid: String,
    },
    /// No object of this name was built in.
    #[error("the BPF object \"{name}\" is not part of this build (it has {})\nbuild weir again from a complete source tree", known.join(", "))]
    NoObject {
        /// The name asked for.
        name: String,
        /// The objects there are.
        known: Vec<&'static str>,
    },
    /// An object lacks a program or a map.
    #[error(
        "the BPF object \"{object}\" has no {kind} \"{name}\"\nbuild weir again from a complete source tree"
    )]
    NoSuchItem {
        /// The object.
        object: String,
        /// "program", "map" or a more exact description.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The loader did not accept an object, or the kernel refused one of its maps.
    #[error("cannot load the BPF object \"{object}\": {why}\n{advice}")]
    Load {
        /// The object.
        object: String,
        /// The cause.
        why: String,
        /// What to do.
        advice: &'static str,
    },
    /// The verifier refused a program.
    #[error(
        "the kernel refused the BPF program \"{program}\": {source}; the verifier's last lines:\n{log}\n\
         this kernel's verifier is too old or too strict for it: report it with `uname -r` and the lines above"
    )]
    Verifier {
        /// The program.
        program: String,
        /// The error of BPF_PROG_LOAD.
        source: io::Error,
        /// The last lines of the verifier's log.
        log: String,
    },
    /// Pins of another ABI version are in the state directory.
    #[error(
        "the tables pinned in {} were made by another weir (ABI {found}, this one has {expected})\n\
         stop the weir that made them, or remove {} to start afresh; connections are then spread anew",
        dir.display(), dir.display()
    )]
    PinnedAbi {
        /// Version in the pinned control record.
        found: u32,
        /// This build's version.
        expected: u32,
        /// Where the pins are.
        dir: PathBuf,
    },
    /// A pin is missing, or is not what its name says.
    #[error(
        "the pinned tables in {} are damaged: {map}: {why}\n\
         remove {} to start afresh; connections are then spread anew", dir.display(), dir.display()
    )]
    BadPin {
        /// Name of the map (or other pin).
        map: String,
        /// What is wrong with it.
        why: String,
        /// Where the pins are.
        dir: PathBuf,
    },
    /// Pinned tables are in use and were made with other settings.
    #[error(
        "cannot change {what} from {pinned} to {wanted} while packets are being forwarded on {}\n\
         put the old value back, or stop weir first (connections are then spread anew)", places.join(", ")
    )]
    InUse {
        /// The setting.
        what: String,
        /// Its value in the pinned tables.
        pinned: String,
        /// The value asked for.
        wanted: String,
        /// Where packets reach the program: interfaces, a position of a program array.
        places: Vec<String>,
    },
    /// A size is out of range.
    #[error("cannot make {what} with {value} entries: {why}\ncorrect the size in the configuration")]
    Size {
        /// What the size is of.
        what: &'static str,
        /// The size.
        value: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// There is no such interface.
    #[error(
        "there is no network interface {interface}\n`ip link` lists those there are in this network namespace"
    )]
    NoInterface {
        /// Name or index.
        interface: String,
    },
    /// The kernel or the driver refused to attach.
    #[error("cannot attach to {interface} ({mode}): {why}\n{advice}")]
    Attach {
        /// The interface's name.
        interface: String,
        /// "xdp native", "xdp generic", "tcx ingress" and the like.
        mode: String,
        /// The cause, in the driver's words where it gave any.
        why: String,
        /// What to do.
        advice: String,
    },
    /// Pins can only be in a BPF file system.
    #[error(
        "cannot pin anything in {}: it is not in a BPF file system\n\
         give a directory below /sys/fs/bpf, or mount one with `mount -t bpf bpf DIR`", path.display()
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The director cannot be where a root program calls it.
    #[error("cannot be at position {position} of the program array {}: {why}\n{advice}", array.display())]
    Place {
        /// Where the array is pinned.
        array: PathBuf,
        /// The position.
        position: u32,
        /// The cause.
        why: String,
        /// What to do.
        advice: String,
    },
    /// A map was used with a key or value of the wrong length, or it cannot do what was asked.
    #[error("cannot use map {map}: {why}\nthis is a defect in weir: report it")]
    Shape {
        /// The map.
        map: String,
        /// What does not fit.
        why: String,
    },
}

impl Error {
    /// The first line: the cause without the advice.
    pub fn cause(&self) -> String {
        self.to_string().lines().next().unwrap_or_default().to_owned()
    }

    /// For `map_err`: says what was being done.
    pub(crate) fn doing(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::System { doing, source }
    }
}

/// What to do about a plain system error.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "run as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
        }
        Some(libc::ENOMEM | libc::E2BIG) => "choose smaller table sizes, or free memory",
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => {
            "this kernel may be too old or built without it; weir needs Linux 5.15 or newer"
        }
        Some(libc::ENOSPC) => "free some space there",
        Some(libc::EROFS) => "choose a state directory on a writable file system",
        _ => "check that the path or interface exists and that nothing else is using it",
    }
}

/// A loader's error, in weir's words.
pub(crate) fn from_loader(object: &str, error: &aya::EbpfError) -> Error {
    let mut why = error.to_string();
    let mut code = None;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !why.contains(&text) {
            why.push_str(": ");
            why.push_str(&text);
        }
        code = code.or_else(|| inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error));
        cause = inner.source();
    }
    // The loader names the system call's error without always linking to it.
    if code.is_none()
        && let aya::EbpfError::MapError(aya::maps::MapError::CreateError { io_error, .. }) = error
    {
        code = io_error.raw_os_error();
        why = format!("{why}: {io_error}");
    }
    let advice = code.map_or("build weir again from a complete source tree", |code| {
        advice(&io::Error::from_raw_os_error(code))
    });
    Error::Load { object: object.to_owned(), why, advice }
}

/// A program's load error, in weir's words.
pub(crate) fn from_program(object: &str, program: &str, error: aya::programs::ProgramError) -> Error {
    match error {
        aya::programs::ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            if log.trim().is_empty() {
                return Error::System { doing: format!("load the BPF program {program}"), source: io_error };
            }
            let lines: Vec<&str> = log.lines().collect();
            let log = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
            Error::Verifier { program: program.to_owned(), source: io_error, log }
        }
        other => Error::Load {
            object: object.to_owned(),
            why: format!("program {program}: {other}"),
            advice: "build weir again from a complete source tree",
        },
    }
}

/// Lines of the verifier's log that an error shows.
const LOG_LINES: usize = 12;
