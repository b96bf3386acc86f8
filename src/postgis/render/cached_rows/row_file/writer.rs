//! Writes rows to a scratch file, in runs.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use super::{BATCH_ROW_BYTES, HEADER_BYTES, MemoryLimit, RowBlock, RowFile, RowRun, block_bytes, code};
use crate::mvt::Features;
use crate::scratch::scratch_file;

/// Writes rows to a scratch file, in runs.
pub(in super::super) struct RowFileWriter {
    file: File,
    runs: Vec<RowRun>,
    written: u64,
    /// The memory that the rows of the batches in work may take, in bytes. A run of more than one row takes no more than that when it is read.
    limit: usize,
}

impl RowFileWriter {
    /// A writer to a new scratch file.
    ///
    /// # Errors
    /// If no file can be created in the temporary folder.
    pub(in super::super) fn new(limit: usize) -> io::Result<RowFileWriter> {
        Ok(RowFileWriter { file: scratch_file()?, runs: Vec::new(), written: 0, limit })
    }

    /// Writes further rows of a part: their positions and bytes. `first` is the number of the first of these rows within the part.
    ///
    /// # Errors
    /// If the file cannot be written, such as on a full disk.
    #[expect(clippy::cast_possible_truncation, reason = "a layer has fewer than 2^32 rows")]
    pub(in super::super) fn add(
        &mut self,
        part: usize,
        first: u64,
        at: &[[f64; 2]],
        features: &Features,
    ) -> io::Result<()> {
        let memory = |number: usize| {
            let encoded = features.encoded(number as u32).unwrap_or_default();
            HEADER_BYTES + encoded.len() + BATCH_ROW_BYTES
        };
        let (mut begin, mut taken) = (0, 0);
        for number in 0..at.len() {
            let own = memory(number);
            if number > begin && taken + own > self.limit {
                self.add_run(part, first, begin..number, at, features)?;
                (begin, taken) = (number, 0);
            }
            taken += own;
        }
        self.add_run(part, first, begin..at.len(), at, features)
    }

    /// Writes some of these rows as a run.
    #[expect(clippy::cast_possible_truncation, reason = "a layer has fewer than 2^32 rows of less than 4 GB")]
    fn add_run(
        &mut self,
        part: usize,
        first: u64,
        rows: Range<usize>,
        at: &[[f64; 2]],
        features: &Features,
    ) -> io::Result<()> {
        let mut order: Vec<(u64, u32)> = rows.map(|number| (code(at[number]), number as u32)).collect();
        order.sort_unstable();
        let mut run = RowRun { base: part as u32, blocks: Vec::new() };
        let most = block_bytes(self.limit);
        let (mut block, mut rows, mut first_code) = (Vec::with_capacity(2 * most), 0, 0);
        for (place, (code, number)) in order.iter().enumerate() {
            let encoded = features.encoded(*number).unwrap_or_default();
            if rows == 0 {
                first_code = *code;
            }
            let [x, y] = at[*number as usize];
            block.extend((first as u32 + number).to_le_bytes());
            block.extend(x.to_le_bytes());
            block.extend(y.to_le_bytes());
            block.extend((encoded.len() as u32).to_le_bytes());
            block.extend_from_slice(encoded);
            rows += 1;
            if block.len() >= most || place + 1 == order.len() {
                self.file.write_all_at(&block, self.written)?;
                let bytes = block.len() as u32;
                run.blocks.push(RowBlock { first: first_code, offset: self.written, bytes, rows });
                self.written += u64::from(bytes);
                block.clear();
                rows = 0;
            }
        }
        if !run.blocks.is_empty() {
            self.runs.push(run);
        }
        Ok(())
    }

    /// Returns the file with all rows. `rows` are the numbers of rows of the parts, in their order; `layer` is their layer, with or without rows.
    pub(in super::super) fn finish(self, rows: &[u64], layer: &Features) -> RowFile {
        let RowFileWriter { file, mut runs, written, limit } = self;
        tracing::debug!(
            "{} rows are in the scratch file, in {} runs of {written} bytes",
            rows.iter().sum::<u64>(),
            runs.len()
        );
        for run in &mut runs {
            let before: u64 = rows.iter().take(run.base as usize).sum();
            #[expect(clippy::cast_possible_truncation, reason = "a layer has fewer than 2^32 rows")]
            let base = before as u32;
            run.base = base;
        }
        // In the order of the rows. The sort is stable, and the runs of a part were written in their order.
        runs.sort_by_key(|run| run.base);
        let layer = layer.with_encoded(Vec::new(), std::iter::empty());
        RowFile { file, runs, layer, memory: MemoryLimit::new(limit) }
    }
}
