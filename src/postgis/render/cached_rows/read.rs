//! Reads rows to be cached, in several sessions in parallel: into memory, and from there into a scratch file if they take too much memory.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::row_file::RowFileWriter;
use super::{CacheLimits, CachedRows, EncodedRows, RowStore};
use crate::mvt::Features;
use crate::postgis::layer::{Layer, QueryValues, search_boxes};
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::split::{self, RowScan};
use crate::postgis::sql::{self, CachedRowsParameters, ExpectedRows, KeyRange, RowChoice};
use crate::scratch::temporary_folder;
use crate::tile::{Coverage, Positions, Zoom};

/// The most bytes of rows in memory. It leaves room for one last group, because offsets into the bytes have 32 bits.
const MAX_BYTES_IN_MEMORY: usize = 3 << 30;

/// Why rows are not cached.
enum RowsRefused {
    /// The tiles of single rows are not plain points, so tiles cannot be put together from them.
    NotPlain,
    /// There are too many rows to cache.
    TooMany,
    /// The rows take too much memory.
    TooLarge,
    /// The number of rows differs from the number that the survey counted.
    Others,
    /// The scratch file cannot be written.
    NoRoom(io::Error),
}

impl RowsRefused {
    fn text(&self) -> String {
        match self {
            RowsRefused::NotPlain => "ST_AsMVT does not write them as plain points".to_owned(),
            RowsRefused::TooMany => "they are too many".to_owned(),
            RowsRefused::TooLarge => "they take more memory than rows_mb allows".to_owned(),
            RowsRefused::Others => "other rows come with each query".to_owned(),
            RowsRefused::NoRoom(error) => format!(
                "they take more memory than rows_mb allows, and the temporary folder {} does not take them ({error}). Make room there, set TMPDIR to another one, or raise rows_mb",
                temporary_folder().display()
            ),
        }
    }
}

/// Rows while they are read, in parts that follow each other in the order of the keys. The parts are read in parallel.
struct Reading {
    parts: Vec<PartRows>,
    /// The bytes that the rows in memory take.
    bytes: usize,
    /// The most bytes that the rows in memory may take.
    limit: usize,
    /// The memory that the layer's cached rows may take.
    memory: usize,
    file: Option<RowFileWriter>,
    /// True if rows beyond that limit go to a file.
    may_spill: bool,
}

/// The rows of a part.
struct PartRows {
    /// The rows in memory, which are the last ones of the part.
    features: Features,
    at: Vec<[f64; 2]>,
    /// The number of all rows read so far.
    rows: u64,
}

impl PartRows {
    fn bytes(&self) -> usize {
        self.features.size() + self.at.len() * Positions::SIZE
    }
}

impl Reading {
    /// The state before the first row. If a number of rows is `expected`, all rows of the layer are read, and they may go to a file.
    fn new(layer: &Layer, expected: Option<ExpectedRows>, memory: usize, parts: usize) -> Reading {
        let memory = memory.min(MAX_BYTES_IN_MEMORY);
        let rows = expected.and_then(|rows| usize::try_from(rows.count()).ok()).unwrap_or_default() / parts;
        let rows = rows.min(memory / parts / Positions::SIZE);
        let properties = || layer.properties.iter().map(|property| property.name.clone()).collect();
        let part = |_| PartRows {
            features: Features::new(properties(), rows, memory / parts),
            at: Vec::with_capacity(rows),
            rows: 0,
        };
        // While the parts are joined, the first one is in memory twice.
        let limit = if parts > 1 { memory / (parts + 1) * parts } else { memory };
        let parts = (0..parts).map(part).collect();
        Reading { parts, bytes: 0, limit, memory, file: None, may_spill: expected.is_some() }
    }

    /// Adds a group of rows to a part: their positions, and the layer into which `ST_AsMVT` encoded them.
    fn add(&mut self, part: usize, x: Vec<f64>, y: Vec<f64>, mvt: &[u8]) -> Result<(), RowsRefused> {
        let part = &mut self.parts[part];
        let before = part.bytes();
        if part.features.add(mvt) != Some(x.len()) {
            return Err(RowsRefused::NotPlain);
        }
        part.rows += x.len() as u64;
        part.at.extend(x.into_iter().zip(y).map(|(x, y)| [x, y]));
        self.bytes += part.bytes() - before;
        while self.bytes > self.limit {
            if !self.may_spill {
                return Err(RowsRefused::TooLarge);
            }
            // The other half of the memory is for the rows of further layers, and for the sort of a run.
            self.limit = self.memory / 2;
            self.spill().map_err(RowsRefused::NoRoom)?;
        }
        Ok(())
    }

    /// Moves the rows of the part that takes most memory to the file.
    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(RowFileWriter::new(self.memory / 2)?),
        };
        let largest = self.parts.iter_mut().enumerate().max_by_key(|(_, part)| part.bytes());
        let Some((number, part)) = largest else { return Ok(()) };
        self.bytes -= part.bytes();
        file.add(number, part.rows - part.at.len() as u64, &part.at, &part.features)?;
        part.features.clear();
        part.at.clear();
        Ok(())
    }

    /// The number of rows read so far.
    fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    async fn finish(self) -> Result<RowStore, RowsRefused> {
        let finishing = tokio::task::spawn_blocking(move || self.stored());
        finishing.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    fn stored(mut self) -> Result<RowStore, RowsRefused> {
        if self.file.is_some() {
            while self.bytes > 0 {
                self.spill().map_err(RowsRefused::NoRoom)?;
            }
        }
        let Reading { parts, file, .. } = self;
        let rows: Vec<u64> = parts.iter().map(|part| part.rows).collect();
        let mut parts = parts.into_iter();
        let Some(PartRows { mut features, mut at, .. }) = parts.next() else { return Err(RowsRefused::Others) };
        let others: Vec<PartRows> = parts.collect();
        if let Some(file) = file {
            // A part without rows has no layer.
            if let Some(known) = others.iter().find(|part| part.rows > 0).filter(|_| rows[0] == 0) {
                features = known.features.clone();
            }
            return Ok(RowStore::File(file.finish(&rows, &features)));
        }
        features.reserve(others.iter().map(|part| &part.features));
        at.reserve_exact(others.iter().map(|part| part.at.len()).sum());
        for part in others {
            features.append(&part.features).ok_or(RowsRefused::NotPlain)?;
            at.extend(part.at);
        }
        let (positions, features) = (Positions::new(at), Arc::new(features));
        Ok(RowStore::Memory(EncodedRows { positions, features, numbers: None }))
    }
}

/// The sessions that read rows.
#[derive(Clone, Copy)]
pub(in crate::postgis) struct RowReaders<'a> {
    /// The session that reads if only one reads.
    pub(in crate::postgis) keeper: &'a Session,
    /// The sessions that may read in parallel.
    pub(in crate::postgis) others: &'a [&'a Session],
}

impl CachedRows {
    /// Reads all rows that are visible in the coverage at `zooms`, into a scratch file if they take more memory than `limits` allows. `None` if the
    /// number of rows is not the one that `limits` expects.
    pub(in crate::postgis) async fn read_all(
        readers: RowReaders<'_>,
        layer: &Layer,
        coverage: &Coverage,
        zooms: &[Zoom],
        limits: CacheLimits,
    ) -> Result<Option<CachedRows>, Error> {
        let CacheLimits { rows, memory } = limits;
        let boxes = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = boxes.iter().flatten().map(|column| -> Param<'_> { (column as _, Type::FLOAT8_ARRAY) });
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let boxes = boxes.as_ref().map_or(0, |columns| columns[0].len());
        let scan = RowScan { boxes, params: &params, with_values: true, rows: Some(rows.count()) };
        let ranges = split::key_ranges(readers.keeper, layer, scan, readers.others.len()).await?;
        let whole = [RowChoice::Boxes { boxes, rows, keys: None }];
        let parts: Vec<RowChoice<'_>> =
            ranges.iter().map(|keys| RowChoice::Boxes { boxes, rows, keys: Some(keys) }).collect();
        if parts.len() > 1 {
            return CachedRows::read(readers.others, layer, &parts, params, memory).await;
        }
        CachedRows::read(&[readers.keeper], layer, &whole, params, memory).await
    }

    /// Reads some rows, each part in its own session. `parts` must be in the order of the keys. `None` if the number of rows is not as expected, or
    /// if rows in areas take more than `memory` bytes.
    pub(in crate::postgis) async fn read(
        sessions: &[&Session],
        layer: &Layer,
        parts: &[RowChoice<'_>],
        mut params: Vec<Param<'_>>,
        memory: usize,
    ) -> Result<Option<CachedRows>, Error> {
        let (name, extent, max_bytes) = (params.len() + 1, params.len() + 2, params.len() + 3);
        let parameters = CachedRowsParameters { name, extent, max_bytes };
        let layer_extent = layer.margin.extent.cast_signed();
        let (expected, max_rows, max_bytes) = match parts {
            [RowChoice::Areas { limit }, ..] => (None, *limit, i64::try_from(memory).unwrap_or(i64::MAX)),
            [RowChoice::Boxes { rows, .. }, ..] => (Some(*rows), u64::MAX, i64::MAX),
            [] => return Ok(None),
        };
        let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&layer_extent, Type::INT4), (&max_bytes, Type::INT8)];
        params.extend(own);
        let reading = Mutex::new((Reading::new(layer, expected, memory, parts.len()), None));
        let context = format!("layer \"{}\", reading its rows", layer.name);
        let statements = sessions.iter().zip(parts).enumerate().map(async |(number, (session, part))| {
            let statement = sql::cached_rows(layer, *part, parameters);
            let keys = match part {
                RowChoice::Boxes { keys, .. } => *keys,
                RowChoice::Areas { .. } => None,
            };
            let params: Vec<Param<'_>> =
                params.iter().cloned().chain(keys.into_iter().flat_map(KeyRange::params)).collect();
            let each = |row: &Row| {
                let mut reading = reading.lock().unwrap_or_else(PoisonError::into_inner);
                let (reading, refused) = &mut *reading;
                if refused.is_none() {
                    *refused = reading.add(number, row.get(0), row.get(1), row.get(2)).err();
                }
                Ok(())
            };
            session.each(&context, &statement, &params, each).await
        });
        // All statements are waited for, even if one failed, because the sessions are used again.
        for read in join_all(statements).await {
            read?;
        }
        let (reading, refused) = reading.into_inner().unwrap_or_else(PoisonError::into_inner);
        let rows = reading.rows();
        let read = match refused {
            Some(refused) => Err(refused),
            None if rows >= max_rows => Err(RowsRefused::TooMany),
            None if matches!(expected, Some(ExpectedRows::Counted(counted)) if counted != rows) => {
                Err(RowsRefused::Others)
            }
            None => reading.finish().await,
        };
        match read {
            Ok(store) => {
                let cached = CachedRows { rows: store, sessions: parts.len(), near: None };
                let (name, bytes) = (&layer.name, cached.bytes());
                let place = if matches!(cached.rows, RowStore::File(_)) { "in a scratch file, with" } else { "in" };
                tracing::debug!("layer \"{name}\": {rows} rows are cached, {place} {bytes} bytes of memory");
                Ok(Some(cached))
            }
            Err(why @ RowsRefused::NoRoom(_)) => {
                tracing::warn!("layer \"{}\": its rows are not cached: {}", layer.name, why.text());
                Ok(None)
            }
            Err(why) => {
                tracing::info!("layer \"{}\": its rows are not cached: {}", layer.name, why.text());
                Ok(None)
            }
        }
    }
}
