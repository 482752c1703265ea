//! Being called by a root program instead of being attached.
//!
//! Owns: what is logged and complained of about a place in a program array. May not touch: interfaces. Invariant: once it
//! runs, the daemon puts nothing into an array any more; what others do to it there is told, not fought.

use anyhow::anyhow;
use weir_config::{InterfaceName, ProgramArray};
use weir_kernel::bpf::{Place, query};

use super::daemon::Daemon;
use crate::advice::of_bpf;

/// The place in the kernel's words.
fn place(array: &ProgramArray) -> Place {
    Place { array: array.path.clone(), position: array.position, next: array.next }
}

/// The place in words.
pub(super) fn describe(array: Option<&ProgramArray>) -> String {
    let Some(ProgramArray { path, position, next, .. }) = array else { return "none".to_owned() };
    let next = next.map(|next| format!(", then {next}")).unwrap_or_default();
    format!("position {position}{next} of {}", path.display())
}

impl Daemon {
    /// Puts the program where the root calls it, and says so.
    pub(super) fn enter(&mut self, array: &ProgramArray) -> anyhow::Result<()> {
        let info = self.director.enter(&place(array)).map_err(|error| of_bpf(&error))?;
        tracing::info!(program = info.name, id = info.id, "entered {}", describe(Some(array)));
        Ok(())
    }

    /// Whether the root, and anything at all, still calls the program; what is wrong otherwise.
    pub(super) fn check_place(&self, array: &ProgramArray) -> anyhow::Result<()> {
        self.director.check_place(&place(array)).map_err(|error| of_bpf(&error))?;
        for interface in self.config.director.interfaces.iter().map(InterfaceName::as_str) {
            let calls = match self.rtnl.find_link(interface)? {
                None => return Err(anyhow!("{interface} has gone")),
                Some(link) => query(link.index).map_err(|error| of_bpf(&error))?.is_some(),
            };
            if !calls {
                return Err(anyhow!(
                    "no XDP program is attached to {interface}, so none calls the director for what arrives there"
                ));
            }
        }
        Ok(())
    }
}
