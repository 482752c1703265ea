//! Errors of the network side: what was being done to what, what the kernel said, and what to do about it.
//!
//! Owns no behaviour but the wording. Every variant names the operation, so callers need not add context.

use nix::errno::Errno;

/// Why an operation on the kernel's network state failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel received the request and refused it.
    #[error("cannot {doing}: {} ({errno:?}){}{}", errno.desc(), quoted(detail.as_deref()), advice(*errno, doing))]
    Refused {
        /// What was being done, as in "set link eth0 up".
        doing: String,
        /// The kernel's error number.
        errno: Errno,
        /// The kernel's own explanation (extended acknowledgement), if it gave one.
        detail: Option<String>,
    },
    /// The system call that carries the request failed.
    #[error("cannot {doing}: {source}{}", io_advice(source, doing))]
    Io {
        /// What was being done.
        doing: String,
        /// The system call's error.
        source: std::io::Error,
    },
    /// The kernel's reply could not be understood.
    #[error("cannot {doing}: the kernel's reply makes no sense: {reason}")]
    Unreadable {
        /// What was being done.
        doing: String,
        /// What is wrong with the reply.
        reason: String,
    },
    /// A listing changed each time while it was being read.
    #[error(
        "cannot {doing}: it changed during each of {tries} readings; try again when the network is calmer"
    )]
    Interrupted {
        /// What was being read.
        doing: String,
        /// How often it was tried.
        tries: u32,
    },
    /// There is no link with that name or index in this network namespace.
    #[error("no link {link} in this network namespace; `ip link` lists those that exist")]
    NoSuchLink {
        /// The name or index asked for.
        link: String,
    },
    /// A name that the kernel or the file system could not hold.
    #[error("{what} {name:?} cannot be used: {reason}")]
    InvalidName {
        /// What kind of name it is.
        what: &'static str,
        /// The name given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The object exists, but not as asked for.
    #[error("cannot {doing}: {found} is already there; remove it first")]
    Conflict {
        /// What was being done.
        doing: String,
        /// What stands in the way.
        found: String,
    },
    /// The kernel accepted a change and did not make it.
    #[error("cannot {doing}: the kernel accepted the change but still reports {found}")]
    NotApplied {
        /// What was being done.
        doing: String,
        /// What the kernel reports now.
        found: String,
    },
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>, source: impl Into<std::io::Error>) -> Self {
        Self::Io { doing: doing.into(), source: source.into() }
    }

    /// The kernel's error number, when there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
            _ => None,
        }
    }
}

fn quoted(detail: Option<&str>) -> String {
    detail.map(|text| format!(": {}", text.trim_end_matches('.'))).unwrap_or_default()
}

fn io_advice(source: &std::io::Error, doing: &str) -> &'static str {
    source.raw_os_error().map_or("", |number| advice(Errno::from_raw(number), doing))
}

/// What the operator can do about it, where the number alone tells.
fn advice(errno: Errno, doing: &str) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES if !doing.starts_with("find the route") => {
            "; this needs root, or CAP_NET_ADMIN (namespaces: CAP_SYS_ADMIN)"
        }
        Errno::EOPNOTSUPP if doing.starts_with("create") => {
            "; this kernel has no such kind of link built in: load its module with modprobe, or use another kind"
        }
        Errno::EOPNOTSUPP => "; the driver or this kernel does not offer it",
        Errno::ENOBUFS => "; raise net.core.rmem_max or try again",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_why_and_what_next() {
        let error = Error::Refused {
            doing: "create dummy link d0".into(),
            errno: Errno::EOPNOTSUPP,
            detail: Some("Unknown device type.".into()),
        };
        let text = error.to_string();
        assert!(
            text.starts_with("cannot create dummy link d0: ")
                && text.contains("(EOPNOTSUPP): Unknown device type; this kernel has no such kind"),
            "{text}"
        );
    }
}
