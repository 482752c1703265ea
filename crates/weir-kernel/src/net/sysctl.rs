//! Network sysctls of the calling thread's namespace, with what it takes to undo a change.
//!
//! Owns the files under `/proc/sys/net`. Keys are kept as path components, so that a link called `eth0.100` is one.

use std::{fmt, fs, path::PathBuf};

use super::error::Error;

const ROOT: &str = "/proc/sys/net";

/// The name of a network sysctl.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sysctl(Vec<String>);

/// A value that was set, and the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlChange {
    /// Which sysctl.
    pub key: Sysctl,
    /// Its value before.
    pub previous: String,
    /// Its value after.
    pub current: String,
}

impl Sysctl {
    /// From components below `net`, for example `["ipv4", "conf", "eth0.100", "rp_filter"]`.
    pub fn new(components: &[&str]) -> Result<Self, Error> {
        for component in components {
            if component.is_empty()
                || *component == "."
                || *component == ".."
                || component.contains(['/', '\0'])
            {
                return Err(Error::InvalidName {
                    what: "sysctl name",
                    name: components.join("."),
                    reason: "each part must be a plain file name",
                });
            }
        }
        Ok(Self(components.iter().map(|&component| component.to_owned()).collect()))
    }

    /// From sysctl(8)'s spelling, with or without the leading `net.`: a slash stands for a dot in a link's name, as in
    /// `net.ipv4.conf.eth0/100.rp_filter`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.strip_prefix("net.").unwrap_or(text);
        let components: Vec<String> = text.split('.').map(|part| part.replace('/', ".")).collect();
        Self::new(&components.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// `net.ipv4.conf.LINK.NAME`.
    pub fn ipv4_conf(link: &str, name: &str) -> Result<Self, Error> {
        Self::new(&["ipv4", "conf", link, name])
    }

    /// `net.ipv6.conf.LINK.NAME`.
    pub fn ipv6_conf(link: &str, name: &str) -> Result<Self, Error> {
        Self::new(&["ipv6", "conf", link, name])
    }

    /// The present value, without the final newline.
    pub fn read(&self) -> Result<String, Error> {
        fs::read_to_string(self.path())
            .map(|text| text.trim_end().to_owned())
            .map_err(|source| Error::io(format!("read sysctl {self}"), source))
    }

    /// Sets the value and returns both. Writes nothing when it is so already.
    pub fn set(&self, value: &str) -> Result<SysctlChange, Error> {
        let previous = self.read()?;
        if previous != value {
            fs::write(self.path(), value)
                .map_err(|source| Error::io(format!("set sysctl {self} to {value}"), source))?;
        }
        Ok(SysctlChange { key: self.clone(), previous, current: value.to_owned() })
    }

    fn path(&self) -> PathBuf {
        let mut path = PathBuf::from(ROOT);
        path.extend(&self.0);
        path
    }
}

impl SysctlChange {
    /// Whether the value was another one before.
    pub fn changed(&self) -> bool {
        self.previous != self.current
    }

    /// Sets the previous value again, unless someone else changed it meanwhile; returns whether it did.
    pub fn undo(&self) -> Result<bool, Error> {
        if !self.changed() || self.key.read()? != self.current {
            return Ok(false);
        }
        self.key.set(&self.previous).map(|_| true)
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("net")?;
        for component in &self.0 {
            write!(f, ".{}", component.replace('.', "/"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_in_link_names_are_kept() {
        let key = Sysctl::ipv4_conf("eth0.100", "rp_filter").unwrap();
        assert_eq!(key.path().to_str(), Some("/proc/sys/net/ipv4/conf/eth0.100/rp_filter"));
        assert_eq!(key.to_string(), "net.ipv4.conf.eth0/100.rp_filter");
        assert_eq!(Sysctl::parse(&key.to_string()).unwrap(), key);
        assert_eq!(Sysctl::parse("ipv4.ip_forward").unwrap(), Sysctl::new(&["ipv4", "ip_forward"]).unwrap());
    }

    #[test]
    fn keys_cannot_leave_the_directory() {
        assert!(Sysctl::new(&["..", "kernel", "panic"]).is_err());
        assert!(Sysctl::ipv4_conf("../x", "rp_filter").is_err());
        assert!(Sysctl::parse("ipv4.//.x").is_err(), "two slashes are two dots");
        assert!(Sysctl::parse("ipv4..x").is_err());
    }
}
