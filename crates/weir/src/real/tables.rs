//! The agent's maps: what its programs know, and what they counted.
//!
//! Owns: opening, filling and reading the maps. May not touch: attachments. Invariant: while programs run, an entry that
//! stays wanted is never missing: new ones are added before old ones are removed.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use weir_abi::agent::{
    self, AddressKey, ClampReason, ConfigRecord, DirectorKey, GuePort, Reason, SegmentLimits, capacity, role,
};
use weir_abi::{Count, Family};
use weir_kernel::bpf::{LoadOptions, Loaded, RawMap, load, objects};
use weir_kernel::net::Prefix;

use crate::advice::Advise as _;

/// The BPF object with the agent's programs.
pub(super) const OBJECT: &str = "agent";
/// Its maps, by the names of their pins.
const MAPS: [&str; 5] = [agent::CONFIG, agent::ADDRESSES, agent::DIRECTORS, agent::REASONS, agent::CLAMPS];

/// Tells one build's programs from another's (FNV-1a of the object).
pub(super) fn fingerprint() -> anyhow::Result<u64> {
    let bytes = objects::get(OBJECT)?;
    Ok(bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)))
}

/// What the programs are to know.
pub(super) struct Knowledge<'a> {
    pub(super) vips: &'a [IpAddr],
    pub(super) own: &'a [IpAddr],
    pub(super) from: &'a [Prefix],
    pub(super) mss: (u16, u16),
    /// 0 = none.
    pub(super) gue_port: u16,
}

/// The maps, open.
pub(super) struct Tables {
    config: RawMap,
    addresses: RawMap,
    directors: RawMap,
    reasons: RawMap,
    clamps: RawMap,
}

/// Loads the programs with the maps that are pinned in `bpf`, or with new ones pinned there.
pub(super) fn load_pinned(bpf: &Path) -> anyhow::Result<Loaded> {
    let pins = MAPS.iter().map(|name| ((*name).to_owned(), bpf.join(name))).collect();
    Ok(load(OBJECT, &LoadOptions { pins, ..LoadOptions::default() })?)
}

/// Whether maps are pinned in `bpf` that this build cannot use.
pub(super) fn are_foreign(bpf: &Path) -> bool {
    let present = MAPS.iter().filter(|name| bpf.join(name).exists()).count();
    present != 0 && (present != MAPS.len() || Tables::open(bpf).is_err())
}

/// Removes the pins of the maps.
pub(super) fn unpin(bpf: &Path) -> anyhow::Result<()> {
    for path in MAPS.iter().map(|name| bpf.join(name)).filter(|path| path.exists()) {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

impl Tables {
    /// Opens the pinned maps of this build's layout.
    pub(super) fn open(bpf: &Path) -> anyhow::Result<Self> {
        let open = |name: &str, sizes: (u32, u32, u32)| -> anyhow::Result<RawMap> {
            let map = RawMap::open(&bpf.join(name))?;
            let info = map.info();
            if (info.key_size, info.value_size, info.max_entries) == sizes {
                return Ok(map);
            }
            let path: PathBuf = bpf.join(name);
            Err(anyhow!("the pinned table {} was made by another weir", path.display()))
                .advise("run `weir real down`, then `weir real up`")
        };
        let word = 8;
        let count = size_of::<Count>() as u32;
        let tables = Self {
            config: open(agent::CONFIG, (4, size_of::<ConfigRecord>() as u32, 1))?,
            addresses: open(agent::ADDRESSES, (size_of::<AddressKey>() as u32, word, capacity::ADDRESSES))?,
            directors: open(agent::DIRECTORS, (DirectorKey::LEN as u32, word, capacity::DIRECTORS))?,
            reasons: open(agent::REASONS, (4, count, Reason::COUNT))?,
            clamps: open(agent::CLAMPS, (4, count, ClampReason::COUNT))?,
        };
        // All zero: new, not filled yet.
        let identity = tables.config_word(0)?;
        if identity != agent::IDENTITY && identity != 0 {
            return Err(anyhow!("the tables pinned in {} were made by another weir", bpf.display()))
                .advise("run `weir real down`, then `weir real up`");
        }
        Ok(tables)
    }

    fn config_word(&self, index: usize) -> anyhow::Result<u64> {
        let record = self.config.get(&0u32.to_ne_bytes())?.unwrap_or_default();
        let word = record.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok());
        Ok(word.map_or(0, u64::from_ne_bytes))
    }

    /// Tells the programs, without a moment in which they know less than before.
    pub(super) fn teach(&self, knowledge: &Knowledge<'_>) -> anyhow::Result<()> {
        let limits = SegmentLimits::new(knowledge.mss.0, knowledge.mss.1);
        let record: ConfigRecord = [agent::IDENTITY, limits.0, GuePort::new(knowledge.gue_port).0];
        let record = record.map(u64::to_ne_bytes).concat();
        self.config.set(&0u32.to_ne_bytes(), &record, 0)?;
        for network in knowledge.from {
            self.directors.set(&director_key(network), &1u64.to_ne_bytes(), 0)?;
        }
        for (key, role) in addresses(knowledge) {
            self.addresses.set(&key, &role.to_ne_bytes(), 0)?;
        }
        Ok(())
    }

    /// Makes the programs forget what is no longer to be known.
    pub(super) fn forget_all_but(&self, knowledge: &Knowledge<'_>) -> anyhow::Result<()> {
        let keep: BTreeSet<Vec<u8>> = knowledge.from.iter().map(director_key).collect();
        for key in self.directors.keys()?.iter().filter(|key| !keep.contains(*key)) {
            self.directors.delete(key)?;
        }
        let keep: BTreeSet<Vec<u8>> = addresses(knowledge).into_iter().map(|(key, _)| key).collect();
        for key in self.addresses.keys()?.iter().filter(|key| !keep.contains(*key)) {
            self.addresses.delete(key)?;
        }
        Ok(())
    }

    /// The segment sizes that the programs enforce, IPv4 and IPv6.
    pub(super) fn segment_sizes(&self) -> anyhow::Result<(u16, u16)> {
        let limits = SegmentLimits(self.config_word(1)?);
        Ok((limits.of(Family::V4), limits.of(Family::V6)))
    }

    /// The port on which the programs unwrap GUE; 0 = none.
    pub(super) fn gue_port(&self) -> anyhow::Result<u16> {
        Ok(GuePort(self.config_word(2)?).number())
    }

    /// Arriving packets by reason, over all CPUs.
    pub(super) fn arriving(&self) -> anyhow::Result<Vec<(Reason, Count)>> {
        Reason::ALL.iter().map(|&reason| Ok((reason, self.reasons.count(reason as u32)?))).collect()
    }

    /// Leaving packets by reason, over all CPUs.
    pub(super) fn leaving(&self) -> anyhow::Result<Vec<(ClampReason, Count)>> {
        ClampReason::ALL.iter().map(|&reason| Ok((reason, self.clamps.count(reason as u32)?))).collect()
    }

    /// Begins to count arriving packets anew.
    pub(super) fn reset_arriving(&self) -> anyhow::Result<()> {
        let zero = [0; size_of::<Count>()];
        (0..Reason::COUNT).try_for_each(|index| Ok(self.reasons.set(&index.to_ne_bytes(), &zero, 0)?))
    }
}

fn director_key(network: &Prefix) -> Vec<u8> {
    let address = network.addr();
    let DirectorKey(words) = DirectorKey::network(Family::of(address), address.into(), network.len());
    words.map(u64::to_ne_bytes).concat()
}

fn addresses(knowledge: &Knowledge<'_>) -> Vec<(Vec<u8>, u64)> {
    let key = |ip: IpAddr| {
        let AddressKey(words) = AddressKey::new(Family::of(ip), ip.into());
        words.map(u64::to_ne_bytes).concat()
    };
    let own = knowledge.own.iter().map(|ip| (key(*ip), role::OWN));
    own.chain(knowledge.vips.iter().map(|ip| (key(*ip), role::VIP))).collect()
}
