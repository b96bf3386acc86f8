//! `agg_tiles_hash`, as Martin's `mbtiles` tool computes it.

use std::fmt::Write as _;
use std::sync::mpsc;
use std::thread::JoinHandle;

use md5::{Digest as _, Md5};

use crate::hex::hex;
use crate::target::TileEdit;
use crate::tile::TileCoord;

/// MD5 over zoom, column, TMS row and bytes of every tile, in the order of [`ORDER`](super::ORDER).
#[derive(Debug)]
pub(crate) struct TilesHash {
    hash: Md5,
    digits: String,
}

impl TilesHash {
    pub(crate) fn new() -> TilesHash {
        TilesHash { hash: Md5::new(), digits: String::new() }
    }

    /// Adds a tile; `bytes` is `None` for a tile that a patch removes.
    pub(crate) fn add(&mut self, tile: TileCoord, bytes: Option<&[u8]>) {
        self.digits.clear();
        // Writing to a string does not fail.
        if write!(self.digits, "{}{}{}", tile.zoom(), tile.x(), tile.tms_row()).is_ok() {
            self.hash.update(&self.digits);
        }
        if let Some(bytes) = bytes {
            self.hash.update(bytes);
        }
    }

    /// The hash in hexadecimal digits, as the metadata has it.
    pub(crate) fn finish(self) -> String {
        hex(self.hash.finalize()).to_ascii_uppercase()
    }
}

/// The total bytes of tiles from which on a separate thread computes the hash: MD5 takes about as long as `SQLite`
/// takes to store the tiles.
const MIN_BYTES_OF_THREAD: usize = 16 << 20;

/// The hash of edits, in the order in which a new archive stores them.
#[derive(Debug)]
pub(crate) struct EditsHash {
    place: HashPlace,
    bytes: usize,
    removals: bool,
}

#[derive(Debug)]
enum HashPlace {
    Here(TilesHash),
    Thread(mpsc::SyncSender<Vec<TileEdit>>, JoinHandle<TilesHash>),
}

impl EditsHash {
    /// Begins a hash. With `removals`, tiles that are removed count, too, as in a patch.
    pub(crate) fn new(removals: bool) -> EditsHash {
        EditsHash { place: HashPlace::Here(TilesHash::new()), bytes: 0, removals }
    }

    pub(crate) fn add(&mut self, edits: Vec<TileEdit>) {
        if let HashPlace::Here(hash) = &mut self.place {
            self.bytes += edits.iter().map(|edit| bytes(edit).map_or(0, <[u8]>::len)).sum::<usize>();
            if self.bytes < MIN_BYTES_OF_THREAD {
                return add(hash, &edits, self.removals);
            }
            let (mut hash, removals) = (std::mem::replace(hash, TilesHash::new()), self.removals);
            let (sender, receiver) = mpsc::sync_channel::<Vec<TileEdit>>(1);
            let thread = std::thread::spawn(move || {
                for edits in receiver {
                    add(&mut hash, &edits, removals);
                }
                hash
            });
            self.place = HashPlace::Thread(sender, thread);
        }
        // The receiver takes edits until the thread ends, so sending fails only if the thread has panicked.
        if matches!(&self.place, HashPlace::Thread(sender, _) if sender.send(edits).is_err()) {
            std::mem::replace(&mut self.place, HashPlace::Here(TilesHash::new())).finish();
        }
    }

    /// The hash in hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        self.place.finish()
    }
}

impl HashPlace {
    /// The hash in hexadecimal digits. If the hash thread has panicked, this panics, too.
    fn finish(self) -> String {
        match self {
            HashPlace::Here(hash) => hash.finish(),
            HashPlace::Thread(sender, thread) => {
                drop(sender);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).finish()
            }
        }
    }
}

/// The bytes that an edit stores in a new archive.
fn bytes(edit: &TileEdit) -> Option<&[u8]> {
    match edit {
        TileEdit::Put(_, bytes) | TileEdit::Keep(_, Some(bytes)) => Some(bytes),
        TileEdit::Remove(_) | TileEdit::Keep(_, None) => None,
    }
}

fn add(hash: &mut TilesHash, edits: &[TileEdit], removals: bool) {
    for edit in edits {
        let stored = bytes(edit);
        if stored.is_some() || removals && matches!(edit, TileEdit::Remove(_)) {
            hash.add(edit.id().coord, stored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::{TileId, Zoom};

    #[test]
    fn a_thread_of_its_own_hashes_what_else_is_hashed_in_place() {
        let id = |x| TileId::from(TileCoord::new(Zoom::new(14).unwrap(), x, 9).unwrap());
        let small: Box<[u8]> = [1].into();
        let large: Box<[u8]> = vec![7; 1 << 20].into();
        for removals in [false, true] {
            let (mut thread, mut plain) = (EditsHash::new(removals), TilesHash::new());
            for x in 0..40 {
                let edits = vec![
                    TileEdit::Put(id(4 * x), large.clone()),
                    TileEdit::Remove(id(4 * x + 1)),
                    TileEdit::Keep(id(4 * x + 2), Some(small.clone())),
                    TileEdit::Keep(id(4 * x + 3), None),
                ];
                add(&mut plain, &edits, removals);
                thread.add(edits);
            }
            assert!(matches!(thread.place, HashPlace::Thread(..)));
            assert_eq!(thread.finish(), plain.finish());
        }
    }
}
