//! The sorted run of a shard: its edits in the order of the target, each with its bytes. The last record contains the number of records.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`], once |
//! | 1 | kind: 0 put, 1 remove, 2 keep without bytes, 3 keep with bytes, 4 added to the target by the shard, 255 the end |
//! | 1, 4, 4 | zoom, column, row; at the end 9 bytes of zeros |
//! | 2 | layer, or 65,535 for the whole tile; at the end zeros |
//! | 8 | length of the bytes that follow; at the end the number of records |
//!
//! The bytes of kind 4 are the MD5 of the tile's bytes (16) and their length (8).

mod read;
mod write;

use libdeflater::Crc;

use crate::sink::TileEdit;
use crate::tile::TileId;

pub use read::RunReader;
pub use write::{FinishedRun, RunSink};

/// The first bytes of a run.
const MAGIC: &[u8; 8] = b"oartrun1";

/// The length of a record without the bytes of the tile.
const RECORD: usize = 20;

const PUT: u8 = 0;
const REMOVE: u8 = 1;
const KEEP_NOTHING: u8 = 2;
const KEEP: u8 = 3;
const ADDED: u8 = 4;
const END: u8 = 255;

/// The layer number that stands for the whole tile.
const WHOLE: u16 = u16::MAX;

/// The most bytes of a tile in a run. No target stores so large a tile.
const MAX_TILE: u64 = 1 << 32;

/// The CRC-32 of a byte sequence that continues with `bytes`; `before` is the CRC-32 of the part before.
fn crc32(before: u32, bytes: &[u8]) -> u32 {
    let mut checksum = Crc::with_initial(before);
    checksum.update(bytes);
    checksum.sum()
}

/// A record of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunRecord {
    /// An edit that the commit has to make.
    Edit(TileEdit),
    /// A tile that the shard has added to the target itself.
    Added(AddedTile),
}

/// A tile that a shard has added to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedTile {
    /// The tile.
    pub id: TileId,
    /// The MD5 of its bytes.
    pub digest: [u8; 16],
    /// The number of its bytes.
    pub length: u64,
}

impl RunRecord {
    /// The tile.
    #[must_use]
    pub const fn id(&self) -> TileId {
        match self {
            RunRecord::Edit(edit) => edit.id(),
            RunRecord::Added(added) => added.id,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::shards::ShardsError;
    use crate::sink::{Needs, Sink as _, WorkFiles};
    use crate::tile::{LayerId, Order, Slice, TileCoord, Zoom};

    pub(in crate::shards) fn tile(zoom: u8, x: u32, y: u32) -> TileId {
        TileCoord::new(Zoom::new(zoom).unwrap(), x, y).unwrap().into()
    }

    /// A reader of a run with `edits`, which it writes into `folder`.
    pub(in crate::shards) fn run(folder: &std::path::Path, name: &str, edits: Vec<TileEdit>) -> RunReader {
        let files = WorkFiles::Folder(folder.to_owned());
        let needs = Needs { order: Order::ZoomColumnTmsRow, layers_apart: false };
        let mut sink = RunSink::begin(files.begin("run").unwrap(), needs, name.to_owned()).unwrap();
        let count = edits.len() as u64;
        assert_eq!(sink.write(edits).unwrap().total(), count);
        let run = sink.end().unwrap();
        files.store(&format!("run/{name}"), run.file).unwrap();
        let file = files.open(&format!("run/{name}")).unwrap();
        RunReader::begin(file, name.to_owned(), run.bytes, run.crc32, 16).unwrap()
    }

    fn edits() -> Vec<TileEdit> {
        let layer = TileId { slice: Slice::Layer(LayerId(3)), ..tile(14, 9_000, 5_000) };
        vec![
            TileEdit::Put(tile(0, 0, 0), vec![1; 100].into()),
            TileEdit::Remove(tile(1, 0, 1)),
            TileEdit::Keep(tile(1, 1, 1), None),
            TileEdit::Keep(layer, Some([7, 8].into())),
            TileEdit::Put(tile(14, 16_383, 0), Box::default()),
        ]
    }

    #[test]
    fn a_run_gives_back_the_edits_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for edits in [Vec::new(), edits()] {
            let mut reader = run(folder.path(), "a", edits.clone());
            let read: Vec<RunRecord> = std::iter::from_fn(|| reader.next().unwrap()).collect();
            assert_eq!(read, edits.into_iter().map(RunRecord::Edit).collect::<Vec<_>>());
            assert_eq!(reader.next().unwrap(), None);
        }
    }

    #[test]
    fn a_tile_that_the_shard_has_added_comes_back_as_one() {
        let folder = tempfile::tempdir().unwrap();
        let files = WorkFiles::Folder(folder.path().to_owned());
        let needs = Needs { order: Order::ZoomColumnTmsRow, layers_apart: false };
        let mut sink = RunSink::begin(files.begin("run").unwrap(), needs, "a".to_owned()).unwrap();
        let added = AddedTile { id: tile(3, 1, 2), digest: [7; 16], length: 1 << 33 };
        sink.added(&added).unwrap();
        let mut reader = RunReader::of_own(&sink.end().unwrap(), "a".to_owned()).unwrap();
        assert_eq!(reader.next().unwrap(), Some(RunRecord::Added(added)));
        assert_eq!(reader.next().unwrap(), None);
    }

    #[test]
    fn a_run_of_which_a_byte_is_wrong_or_missing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/a");
        drop(run(folder.path(), "a", edits()));
        let whole = std::fs::read(&path).unwrap();
        let checksum = crc32(0, &whole);
        let read = |bytes: &[u8], length: u64| -> Result<usize, ShardsError> {
            std::fs::write(&path, bytes).unwrap();
            let file = WorkFiles::Folder(folder.path().to_owned()).open("run/a").unwrap();
            let mut reader = RunReader::begin(file, "a".to_owned(), length, checksum, 64)?;
            let mut count = 0;
            while reader.next()?.is_some() {
                count += 1;
            }
            Ok(count)
        };
        assert_eq!(read(&whole, whole.len() as u64).unwrap(), 5);
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x10;
            assert!(read(&damaged, whole.len() as u64).is_err(), "byte {place}");
            assert!(read(&whole[..place], whole.len() as u64).is_err(), "{place} bytes");
            assert!(read(&whole[..place], place as u64).is_err(), "{place} bytes, as noted");
        }
    }
}
