//! Deduplication: the offset of each content in the tile data, so that equal tiles are stored once.

use std::io;

use hashbrown::HashMap;
use libdeflater::Crc;
use md5::{Digest as _, Md5};

/// The slots of the table: 2^20 of 32 bytes are 32 MiB.
const SLOTS: usize = 1 << 20;

/// The number of used slots from which on the table has all slots in memory. Until then it holds only the used slots:
/// otherwise each of the first contents would touch another page of the whole table, which takes most of the time of an
/// archive of a thousand tiles.
const MAX_FEW: usize = 1 << 14;

/// The content that a slot of the table refers to.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// The MD5 of the content's bytes; zeros if it was not computed yet.
    digest: [u8; 16],
    /// The offset of the content in the tile data.
    offset: u64,
    /// The content's length in bytes; 0 marks an empty slot.
    length: u32,
    /// The CRC-32 of the content's bytes.
    checksum: u32,
}

/// A hash table of fixed size without chains: a newer content overwrites an older one in the same slot. With more than
/// about a million different contents, a content whose slot was overwritten is stored again when it repeats: the
/// archive is correct and a little larger. Contents that repeat often or soon are still found.
///
/// Different contents must never be confused, so they are compared by their MD5. Computing MD5 takes half of the time
/// of an archive whose tiles are all different. So it is computed only for a content whose CRC-32 and length equal
/// those of an earlier one. The earlier content is then read back from the archive, once.
#[derive(Debug)]
pub(crate) struct KnownContents(Slots);

#[derive(Debug)]
enum Slots {
    /// The slots in use, by their numbers.
    Few(HashMap<usize, Slot>),
    All(Vec<Slot>),
}

impl KnownContents {
    pub(crate) fn new() -> KnownContents {
        KnownContents(Slots::Few(HashMap::new()))
    }

    /// The offset of the same bytes, if they were stored before. Otherwise returns `None`, and remembers the bytes as
    /// stored at `offset`. `stored` reads back stored bytes by offset and length.
    pub(crate) fn place(
        &mut self,
        bytes: &[u8],
        offset: u64,
        stored: impl FnOnce(u64, u32) -> io::Result<Vec<u8>>,
    ) -> io::Result<Option<u64>> {
        let mut crc = Crc::new();
        crc.update(bytes);
        let checksum = crc.sum();
        // The caller refuses longer contents.
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let slot = self.slot(slot_of(checksum));
        let mut digest = [0; 16];
        if (slot.checksum, slot.length) == (checksum, length) {
            if slot.digest == [0; 16] {
                slot.digest = Md5::digest(stored(slot.offset, length)?).into();
            }
            digest = Md5::digest(bytes).into();
            if slot.digest == digest {
                return Ok(Some(slot.offset));
            }
        }
        *slot = Slot { digest, offset, length, checksum };
        Ok(None)
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

/// The slot of a checksum. Similar contents have similar checksums, so the checksums are first spread (by the golden
/// ratio, as in Fibonacci hashing).
const fn slot_of(checksum: u32) -> usize {
    let spread = (checksum as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (spread >> (u64::BITS - SLOTS.trailing_zeros())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contents as an archive stores them, and their table.
    struct StoredContents {
        contents: KnownContents,
        stored: Vec<u8>,
        /// How many contents were read back.
        read: usize,
    }

    impl StoredContents {
        fn new() -> StoredContents {
            StoredContents { contents: KnownContents::new(), stored: Vec::new(), read: 0 }
        }

        /// The offset of bytes that are known; unknown bytes are stored.
        fn put(&mut self, bytes: &[u8]) -> Option<u64> {
            let StoredContents { contents, stored, read } = self;
            let known = contents.place(bytes, stored.len() as u64, |offset, length| {
                *read += 1;
                Ok(stored[offset as usize..][..length as usize].to_vec())
            });
            let known = known.unwrap();
            if known.is_none() {
                stored.extend_from_slice(bytes);
            }
            known
        }
    }

    #[test]
    fn the_same_bytes_have_one_place_and_are_read_back_once() {
        let mut archive = StoredContents::new();
        assert_eq!((archive.put(b"a"), archive.put(b"b")), (None, None));
        for _ in 0..3 {
            assert_eq!((archive.put(b"a"), archive.put(b"b")), (Some(0), Some(1)));
        }
        assert_eq!(archive.read, 2);
    }

    #[test]
    fn contents_of_one_checksum_and_length_are_told_apart() {
        let (one, other) = (b"plumless".as_slice(), b"buckeroo".as_slice());
        let sum = |bytes: &[u8]| {
            let mut crc = Crc::new();
            crc.update(bytes);
            crc.sum()
        };
        assert_eq!(sum(one), sum(other));
        let mut archive = StoredContents::new();
        assert_eq!((archive.put(one), archive.put(other)), (None, None));
        assert_eq!((archive.put(other), archive.put(one)), (Some(8), None));
        assert_eq!(archive.put(one), Some(16));
    }

    #[test]
    fn what_is_known_stays_known_when_all_slots_are_kept() {
        let mut archive = StoredContents::new();
        let count = 2 * MAX_FEW as u64;
        for number in 0..count {
            assert_eq!(archive.put(&number.to_le_bytes()), None);
        }
        assert!(matches!(archive.contents.0, Slots::All(_)));
        let known = (0..count).filter(|number| archive.put(&number.to_le_bytes()) == Some(*number * 8)).count();
        // A few share their slot with another one.
        assert!(known as u64 > count - count / 20, "{known} of {count}");
    }

    #[test]
    fn beyond_its_size_the_table_forgets_and_never_mixes_up() {
        let mut archive = StoredContents::new();
        let count = 2 * SLOTS as u64;
        for number in 0..count {
            assert_eq!(archive.put(&number.to_le_bytes()), None);
        }
        // The newest first, because asking for an unknown content stores it and may overwrite a slot.
        let known = (0..count).rev().filter(|number| match archive.put(&number.to_le_bytes()) {
            Some(place) => place == *number * 8 || panic!("{number} is taken for {place}"),
            None => false,
        });
        assert!(known.count() > SLOTS / 2);
    }
}
