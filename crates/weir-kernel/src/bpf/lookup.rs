//! Tables of keys to a word each: hashes and longest-prefix-match tries.
//!
//! Owns: reading and changing them many entries at a time, because there may be millions. May not touch: what keys and
//! words mean (weir-abi). Invariant: no more of a table is in memory at once than a piece of [`PIECE`] entries, but where
//! all of it is asked for.

use std::os::fd::AsFd as _;

use super::{Error, RawMap, sys};

/// Entries that are read or written in one call.
const PIECE: usize = 4096;

/// A table with keys of `K` words, each with one word.
#[derive(Debug)]
pub struct Lookup<const K: usize>(RawMap);

impl<const K: usize> Lookup<K> {
    /// Takes a map, which must be a hash or a trie with keys of `8 * K` bytes and values of eight.
    pub fn new(map: RawMap) -> Result<Self, Error> {
        let info = map.info();
        let fits = matches!(info.map_type, sys::MAP_TYPE_HASH | sys::MAP_TYPE_LPM_TRIE)
            && info.key_size as usize == 8 * K
            && info.value_size == 8;
        if fits {
            return Ok(Self(map));
        }
        let why = format!("it is no hash or trie with keys of {} bytes and values of 8", 8 * K);
        Err(Error::Shape { map: map.name().to_owned(), why })
    }

    /// The most entries it can have.
    pub fn capacity(&self) -> u32 {
        self.0.info().max_entries
    }

    /// The word under `key`. (In a trie, of the longest prefix that covers it.)
    pub fn get(&self, key: &[u64; K]) -> Result<Option<u64>, Error> {
        let value = self.0.get(key.map(u64::to_ne_bytes).as_flattened())?;
        Ok(value.and_then(|value| value.first_chunk().map(|word| u64::from_ne_bytes(*word))))
    }

    /// Stores `word` under `key`.
    pub fn set(&self, key: &[u64; K], word: u64) -> Result<(), Error> {
        self.0.set(key.map(u64::to_ne_bytes).as_flattened(), &word.to_ne_bytes(), 0)
    }

    /// Removes `key`; whether it was there.
    pub fn remove(&self, key: &[u64; K]) -> Result<bool, Error> {
        self.0.delete(key.map(u64::to_ne_bytes).as_flattened())
    }

    /// Stores all of these, a piece at a time.
    pub fn set_all(&self, entries: impl IntoIterator<Item = ([u64; K], u64)>) -> Result<(), Error> {
        let mut entries = entries.into_iter();
        let (mut keys, mut words) = (Vec::with_capacity(PIECE), Vec::with_capacity(PIECE));
        loop {
            keys.clear();
            words.clear();
            for (key, word) in entries.by_ref().take(PIECE) {
                keys.push(key);
                words.push(word);
            }
            if keys.is_empty() {
                return Ok(());
            }
            // SAFETY: the map's shape was checked when it was taken; a word was pushed for each key.
            unsafe { sys::update_words(self.0.as_fd(), &keys, &words) }
                .map_err(Error::doing(format!("store into map {}", self.0.name())))?;
        }
    }

    /// All entries, in no order. While others change it, some may be missing or come twice.
    pub fn entries(&self) -> Result<Vec<([u64; K], u64)>, Error> {
        let mut all = Vec::new();
        self.each_piece(|keys, words| {
            all.extend(keys.iter().copied().zip(words.iter().copied()));
            Ok(())
        })?;
        Ok(all)
    }

    /// Removes every key of which `keep` says no; how many those were. Nobody else may change the table meanwhile.
    pub fn retain(&self, mut keep: impl FnMut(&[u64; K]) -> bool) -> Result<u64, Error> {
        let mut removed = 0;
        // The way through the table goes on from the last key of a piece, which therefore outlives it.
        let mut last: Option<[u64; K]> = None;
        let mut remove = |keys: &[[u64; K]]| {
            for key in keys {
                removed += u64::from(self.remove(key)?);
            }
            Ok::<(), Error>(())
        };
        self.each_piece(|keys, _| {
            let mut unwanted: Vec<[u64; K]> = last.take().into_iter().collect();
            unwanted.extend(keys.iter().filter(|key| !keep(key)));
            last = unwanted.pop_if(|key| keys.last() == Some(key));
            remove(&unwanted)
        })?;
        remove(last.as_slice())?;
        Ok(removed)
    }

    /// Goes through the table a piece at a time. Of what it has been through, all but the last key may be removed.
    fn each_piece(
        &self,
        mut each: impl FnMut(&[[u64; K]], &[u64]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut keys, mut words) = (vec![[0; K]; PIECE], vec![0; PIECE]);
        let mut position: Option<[u64; K]> = None;
        loop {
            // SAFETY: the map's shape was checked when it was taken; there are as many words as keys.
            let piece =
                unsafe { sys::lookup_words(self.0.as_fd(), position.as_ref(), &mut keys, &mut words) }
                    .map_err(Error::doing(format!("read map {}", self.0.name())))?;
            if piece.len > 0 {
                each(&keys[..piece.len], &words[..piece.len])?;
            }
            match piece.next {
                Some(next) => position = Some(next),
                None => return Ok(()),
            }
        }
    }
}
