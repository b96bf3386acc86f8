//! Deduplication: the offset of each content in the tile data, so that equal tiles are stored once.

use hashbrown::HashMap;
use md5::{Digest as _, Md5};

/// The slots of the table: 2^20 of 32 bytes are 32 MiB.
const SLOTS: usize = 1 << 20;

/// The table has all slots once so many are in use. Until then it holds only those: each of the first contents would touch another page of the whole
/// table, which takes most of the time of an archive of a thousand tiles.
const MAX_FEW: usize = 1 << 14;

/// Hash in two halves, offset, length; a length of 0 marks an empty slot.
type Slot = [u64; 4];

/// A hash table of fixed size without chains: a newer content overwrites an older one in the same slot. With more than about a million
/// different contents, a content whose slot was overwritten is stored again when it repeats: the archive is correct and a little larger.
/// Contents that repeat often or soon are still found.
///
/// The hash is MD5, because two contents must never be taken for one. It hashes 2.3 million tiles of 194 bytes a second; gzip packs 0.14
/// million of them.
#[derive(Debug)]
pub(super) struct KnownContents(Slots);

#[derive(Debug)]
enum Slots {
    /// Those in use, by their numbers.
    Few(HashMap<usize, Slot>),
    All(Vec<Slot>),
}

impl KnownContents {
    pub(super) fn new() -> KnownContents {
        KnownContents(Slots::Few(HashMap::new()))
    }

    /// The offset of the same bytes, if they were stored before. Else `None`, and the bytes count as stored at `offset`.
    pub(super) fn place(&mut self, bytes: &[u8], offset: u64) -> Option<u64> {
        let hash = u128::from_le_bytes(Md5::digest(bytes).into());
        let (low, high, length) = (hash as u64, (hash >> 64) as u64, bytes.len() as u64);
        let slot = self.slot(low as usize % SLOTS);
        if slot[0] == low && slot[1] == high && slot[3] == length {
            return Some(slot[2]);
        }
        *slot = [low, high, offset, length];
        None
    }

    fn slot(&mut self, number: usize) -> &mut Slot {
        if let Slots::Few(few) = &self.0
            && few.len() >= MAX_FEW
        {
            let mut all = vec![Slot::default(); SLOTS];
            few.iter().for_each(|(number, slot)| all[*number] = *slot);
            self.0 = Slots::All(all);
        }
        match &mut self.0 {
            Slots::Few(few) => few.entry(number).or_default(),
            Slots::All(all) => &mut all[number],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_have_one_place() {
        let mut contents = KnownContents::new();
        assert_eq!(contents.place(b"a", 0), None);
        assert_eq!(contents.place(b"b", 1), None);
        assert_eq!((contents.place(b"a", 2), contents.place(b"b", 2)), (Some(0), Some(1)));
    }

    #[test]
    fn what_is_known_stays_known_when_all_slots_are_kept() {
        let mut contents = KnownContents::new();
        let count = 2 * MAX_FEW as u64;
        for number in 0..count {
            assert_eq!(contents.place(&number.to_le_bytes(), number), None);
        }
        assert!(matches!(contents.0, Slots::All(_)));
        let known = (0..count).filter(|number| contents.place(&number.to_le_bytes(), *number) == Some(*number)).count();
        // A few share their slot with another one.
        assert!(known as u64 > count - count / 20, "{known} of {count}");
    }

    #[test]
    fn beyond_its_size_the_table_forgets_and_never_mixes_up() {
        let mut contents = KnownContents::new();
        let count = 2 * SLOTS as u64;
        for number in 0..count {
            assert_eq!(contents.place(&number.to_le_bytes(), number), None);
        }
        // The newest first, since what is asked for and not known takes a place itself.
        let known = (0..count).rev().filter(|number| match contents.place(&number.to_le_bytes(), *number) {
            Some(place) => place == *number || panic!("{number} is taken for {place}"),
            None => false,
        });
        assert!(known.count() > SLOTS / 2);
    }
}
