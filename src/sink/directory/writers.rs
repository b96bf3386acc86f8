//! Writes tiles by several threads: creating a file takes longer than writing its bytes.

use super::DirectoryError;
use super::files::{FileCounts, Files, TileFile};

/// The number of threads that write tiles.
pub(super) const WRITERS: usize = 4;

/// The fewest tiles that a writer gets, unless there are fewer in total.
const MIN_TILES_PER_WRITER: usize = 32;

/// Stores tiles by several writers; sorts `wanted` by folder.
pub(super) fn synchronize(
    files: &mut Files,
    others: &mut [Files],
    wanted: &mut [TileFile],
) -> Result<FileCounts, DirectoryError> {
    // With `{layer}` in the template, and in templates whose names begin with the row, the tiles of a folder are not adjacent in `wanted`.
    wanted.sort_by(|one, other| one.folder().cmp(other.folder()));
    let mut shares = shares(wanted, others.len() + 1);
    let first = shares.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let start = |(files, share)| {
            let files: &mut Files = files;
            std::thread::Builder::new().spawn_scoped(scope, move || files.synchronize(share)).map_err(|_error| share)
        };
        let at_once: Vec<_> = others.iter_mut().zip(shares).map(start).collect();
        // Waits for every writer, even if one has failed.
        let mut all = files.synchronize(first);
        for writer in at_once {
            let written = match writer {
                Ok(writer) => writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // The system gives no further thread.
                Err(share) => files.synchronize(share),
            };
            all = all.and_then(|all| {
                let written = written?;
                Ok(FileCounts { added: all.added + written.added, replaced: all.replaced + written.replaced })
            });
        }
        all
    })
}

/// Cuts `wanted` into about equal shares, without cutting a folder unless it is far larger than a share.
fn shares(wanted: &[TileFile], writers: usize) -> impl Iterator<Item = &[TileFile]> {
    let share = wanted.len().div_ceil(writers).max(MIN_TILES_PER_WRITER);
    let mut left = wanted;
    std::iter::from_fn(move || {
        let (first, rest) = left.split_at(left.len().min(share));
        let begun = first.last().map(TileFile::folder);
        let same = rest.iter().take(share).take_while(|tile| begun == Some(tile.folder())).count();
        let (next, after) = left.split_at(first.len() + same);
        left = after;
        (!next.is_empty()).then_some(next)
    })
}
