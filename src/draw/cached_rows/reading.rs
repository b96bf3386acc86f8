//! Reads rows to be cached, in several sessions in parallel: into memory, and from there into a scratch file if they
//! take too much memory.

use std::io;
use std::sync::Arc;

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::rows_in_file::{FeaturesFileWriter, RowFeatures, may_be_in_file, memory_beside_reads, no_room};
use super::shape_rules::rules_of_server;
use super::shapes::{Geometries, ShapeRows};
use super::spilled_rows::SpilledRowsWriter;
use super::{CacheLimits, CachedRows, EncodedRows, MAX_BYTES_IN_MEMORY, MIN_SHAPE_BYTES, RowStore};
use crate::mvt::{BehindFeature, DrawingRules, FeatureKey, Features};
use crate::postgis::layer::{KeyTypes, Layer, OrderedBytes, QueryValues, search_boxes};
use crate::postgis::session::{Error, Param, Session};
use crate::postgis::split::RowScan;
use crate::postgis::sql::{CachedRowsParameters, ExpectedRows, KeyRange, RowChoice};
use crate::postgis::{split, sql};
use crate::threads::blocking;
use crate::tile::{Coverage, Frame, Positions, Zoom};

/// Why rows are not cached.
pub(crate) enum RowsRefused {
    /// The tiles of single rows are not plain points, so tiles cannot be put together from them.
    NotPlain,
    /// There are too many rows to cache.
    TooManyDirtyTiles,
    /// The rows take too much memory.
    TooLarge,
    /// The number of rows differs from the number that the survey counted.
    Others,
    /// The scratch file cannot be written.
    NoRoom(io::Error),
    /// The server draws lines and polygons in a way that is not known here.
    OtherRules,
    /// Some geometries are not lines or polygons of two dimensions.
    OtherShapes,
    /// A row that is to be kept by its key has none.
    NoKey,
}

impl RowsRefused {
    pub(crate) fn text(&self) -> String {
        match self {
            RowsRefused::NotPlain => "ST_AsMVT does not write them as plain points".to_owned(),
            RowsRefused::TooManyDirtyTiles => "they are too many".to_owned(),
            RowsRefused::TooLarge => "they take more memory than rows_mb allows".to_owned(),
            RowsRefused::OtherShapes => {
                "some are not lines or polygons of two dimensions whose boxes PostGIS has stored".to_owned()
            }
            RowsRefused::OtherRules => {
                "this PostGIS draws lines and polygons otherwise than those that are known".to_owned()
            }
            RowsRefused::NoKey => "the key of a row is NULL".to_owned(),
            RowsRefused::Others => "other rows come with each query".to_owned(),
            RowsRefused::NoRoom(error) => no_room(error),
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
    /// What happens to rows beyond that limit.
    spill: Spill,
    file: Option<RowsFile>,
    /// How the server draws lines and polygons; `None` if the rows are points.
    rules: Option<DrawingRules>,
}

/// The scratch file of rows beyond the limit.
enum RowsFile {
    Rows(SpilledRowsWriter),
    Features(FeaturesFileWriter),
}

struct PartRows {
    /// The rows in memory, which are the last ones of the part.
    features: Features,
    at: Vec<[f64; 2]>,
    /// Those of lines and polygons.
    geometries: Geometries,
    /// The number of all rows read so far.
    rows: u64,
}

impl PartRows {
    fn bytes(&self) -> usize {
        self.features.size() + self.at.len() * Positions::SIZE + self.geometries.bytes()
    }
}

impl Reading {
    /// The state before the first row. If a number of rows is `expected`, all rows of the layer are read.
    fn new(layer: &Layer, expected: Option<ExpectedRows>, room: RowsRoom, parts: usize) -> Reading {
        let are_keyed = room.keys_behind(layer).is_some();
        let RowsRoom { memory, spill, .. } = room;
        let memory = memory.min(MAX_BYTES_IN_MEMORY);
        let rows = expected.and_then(|rows| usize::try_from(rows.count()).ok()).unwrap_or_default() / parts;
        let rows = rows.min(memory / parts / Positions::SIZE);
        let properties = || layer.properties.iter().map(|property| property.name.clone()).collect();
        let is_ranked = layer.cached_rank().is_some();
        let part = |_| PartRows {
            features: Features::new(properties(), rows, memory / parts)
                .with_objects(layer.objects())
                .with_ranks(is_ranked)
                .with_keys(are_keyed),
            at: Vec::with_capacity(if layer.shape.points { rows } else { 0 }),
            geometries: Geometries::default(),
            rows: 0,
        };
        // While the parts are joined, the first one is in memory twice.
        let limit = if parts > 1 { memory / (parts + 1) * parts } else { memory };
        let spill = match spill {
            // Features are numbered in the order in which they come.
            Spill::Features(_) if parts > 1 || !may_be_in_file(0, memory) => Spill::Nothing,
            _ if layer.shape.points => spill,
            _ => Spill::Nothing,
        };
        let parts = (0..parts).map(part).collect();
        Reading { parts, bytes: 0, limit, memory, spill, file: None, rules: None }
    }

    /// Adds a group of rows to a part, as the statement returns it: the layer into which `ST_AsMVT` encoded them, where
    /// they lie, their ranks, and their keys, which are of the types `keys`.
    fn add(&mut self, part: usize, row: &Row, keys: Option<&KeyTypes<'_>>) -> Result<(), RowsRefused> {
        let part = &mut self.parts[part];
        let before = part.bytes();
        let added = if part.features.are_ranked() || part.features.are_keyed() {
            let behind = ReadBehind::new(row, part.features.are_ranked(), keys)?;
            part.features.add_with(row.get(0), behind.of_rows())
        } else {
            part.features.add(row.get(0))
        };
        let added = added.ok_or(RowsRefused::NotPlain)?;
        part.rows += added as u64;
        // Those of earlier groups may be in a file.
        let found = part.at.len() + part.geometries.len();
        if self.rules.is_some() {
            part.geometries.add(row).ok_or(RowsRefused::OtherShapes)?;
        } else {
            let [x, y]: [Vec<f64>; 2] = [row.get(1), row.get(2)];
            part.at.extend(x.into_iter().zip(y).map(|(x, y)| [x, y]));
        }
        if part.at.len() + part.geometries.len() != found + added {
            return Err(RowsRefused::NotPlain);
        }
        self.bytes += part.bytes() - before;
        while self.bytes > self.limit {
            match &self.spill {
                Spill::Nothing => return Err(RowsRefused::TooLarge),
                Spill::Rows => {
                    // The other half of the memory is for the rows of further layers, and for the sort of a run.
                    self.limit = self.memory / 2;
                    self.spill_rows().map_err(RowsRefused::NoRoom)?;
                }
                Spill::Features(key) => {
                    let key = key.clone();
                    let spilled = tokio::task::block_in_place(|| self.spill_features(&key));
                    let taken = spilled.map_err(RowsRefused::NoRoom)?;
                    if taken > memory_beside_reads(self.memory) {
                        return Err(RowsRefused::TooLarge);
                    }
                    self.limit = self.bytes + self.memory - memory_beside_reads(self.memory);
                }
            }
        }
        Ok(())
    }

    /// Moves the rows of the part that takes most memory to the file.
    fn spill_rows(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(RowsFile::Rows(SpilledRowsWriter::new(self.memory / 2)?));
        }
        let largest = self.parts.iter_mut().enumerate().max_by_key(|(_, part)| part.bytes());
        let (Some((number, part)), Some(RowsFile::Rows(file))) = (largest, &mut self.file) else { return Ok(()) };
        self.bytes -= part.bytes();
        file.add(number, part.rows - part.at.len() as u64, &part.at, &part.features)?;
        part.features.clear();
        part.at.clear();
        Ok(())
    }

    /// Moves the features in memory to the file, but not their positions. Returns the memory that the rows take now.
    fn spill_features(&mut self, key: &FeatureKey) -> io::Result<usize> {
        if self.file.is_none() {
            let expected = self.parts.first().map_or(0, |part| part.at.capacity());
            self.file = Some(RowsFile::Features(FeaturesFileWriter::new(expected)?));
        }
        let (Some(part), Some(RowsFile::Features(file))) = (self.parts.first_mut(), &mut self.file) else {
            return Ok(0);
        };
        let before = part.bytes();
        file.add(&part.at[part.at.len() - part.features.len()..], &part.features, key)?;
        // Without the memory that was reserved for all.
        part.features = part.features.with_encoded(Vec::new(), std::iter::empty());
        self.bytes -= before - part.bytes();
        Ok(file.bytes())
    }

    /// The number of rows read so far.
    fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }

    async fn finish(self) -> Result<RowStore, RowsRefused> {
        blocking(move || self.stored()).await
    }

    fn stored(mut self) -> Result<RowStore, RowsRefused> {
        while self.bytes > 0 && matches!(self.file, Some(RowsFile::Rows(_))) {
            self.spill_rows().map_err(RowsRefused::NoRoom)?;
        }
        if let (Some(RowsFile::Features(_)), Spill::Features(key)) = (&self.file, self.spill.clone())
            && self.spill_features(&key).map_err(RowsRefused::NoRoom)? > memory_beside_reads(self.memory)
        {
            return Err(RowsRefused::TooLarge);
        }
        let Reading { parts, file, rules, memory, .. } = self;
        let rows: Vec<u64> = parts.iter().map(|part| part.rows).collect();
        let mut parts = parts.into_iter();
        let Some(PartRows { mut features, mut at, mut geometries, .. }) = parts.next() else {
            return Err(RowsRefused::Others);
        };
        let others: Vec<PartRows> = parts.collect();
        match file {
            Some(RowsFile::Rows(file)) => {
                // A part without rows has no layer.
                if let Some(known) = others.iter().find(|part| part.rows > 0).filter(|_| rows[0] == 0) {
                    features = known.features.clone();
                }
                return Ok(RowStore::File(file.finish(&rows, &features)));
            }
            Some(RowsFile::Features(file)) => {
                let features = file.finish(&features, memory).map_err(RowsRefused::NoRoom)?;
                let positions = Positions::new(at, Frame::Metres);
                return Ok(CachedRows::of_encoded(positions, RowFeatures::File(Arc::new(features))).rows);
            }
            None => {}
        }
        features.reserve(others.iter().map(|part| &part.features));
        at.reserve_exact(others.iter().map(|part| part.at.len()).sum());
        geometries.reserve(others.iter().map(|part| &part.geometries));
        for part in others {
            features.append(&part.features).ok_or(RowsRefused::NotPlain)?;
            at.extend(part.at);
            geometries.append(&part.geometries);
        }
        if let Some(rules) = rules {
            return Ok(RowStore::Shapes(ShapeRows::new(features, geometries, rules)));
        }
        let positions = Arc::new(Positions::new(at, Frame::Metres));
        Ok(RowStore::Memory(EncodedRows { positions, features: features.into(), ..EncodedRows::default() }))
    }
}

/// What stands behind the encoded features of a group of rows.
struct ReadBehind {
    ranks: Vec<Option<OrderedBytes>>,
    keys: Vec<Vec<u8>>,
}

impl ReadBehind {
    /// From a group as the statement returns it: an array of ranks, and one for each column of a key.
    fn new(row: &Row, are_ranked: bool, keys: Option<&KeyTypes<'_>>) -> Result<ReadBehind, RowsRefused> {
        let array = |column: usize| -> Result<Vec<Option<OrderedBytes>>, RowsRefused> {
            row.try_get(column).map_err(|_other| RowsRefused::NotPlain)
        };
        let mut behind = ReadBehind { ranks: Vec::new(), keys: Vec::new() };
        if are_ranked {
            behind.ranks = array(3)?;
        }
        if let Some(types) = keys {
            let first = 3 + usize::from(are_ranked);
            let columns = (first..).take(types.read_as().len()).map(array).collect::<Result<Vec<_>, _>>()?;
            let key = |row: usize| types.bytes(columns.iter().map(|column| column.get(row)?.as_ref()));
            behind.keys = (0..columns[0].len()).map(key).collect::<Option<_>>().ok_or(RowsRefused::NoKey)?;
        }
        Ok(behind)
    }

    fn of_rows(&self) -> impl Iterator<Item = BehindFeature<'_>> {
        let of_row = |row: usize| BehindFeature {
            rank: self.ranks.get(row).and_then(|rank| Some(&*rank.as_ref()?.0)),
            key: self.keys.get(row).map(|key| &key[..]),
        };
        (0..self.ranks.len().max(self.keys.len())).map(of_row)
    }
}

/// What happens to rows that take more memory than allowed.
#[derive(Debug, Clone)]
pub(crate) enum Spill {
    /// They are not cached.
    Nothing,
    /// They are kept in a scratch file, and half of the memory is used to read them back.
    Rows,
    /// Their features are kept in a scratch file. Positions and keys stay in memory, so that the rows can be brought
    /// from snapshot to snapshot.
    Features(FeatureKey),
}

#[derive(Clone)]
pub(crate) struct RowsRoom {
    /// In bytes.
    pub(crate) memory: usize,
    /// What happens to rows beyond that.
    pub(crate) spill: Spill,
    /// True if the rows are kept from snapshot to snapshot, by their keys.
    pub(crate) by_key: bool,
}

impl RowsRoom {
    /// The types of the keys that rows of a layer have behind them; `None` if they have none.
    fn keys_behind<'l>(&self, layer: &'l Layer) -> Option<KeyTypes<'l>> {
        layer.keys_behind().filter(|_| self.by_key)
    }
}

/// The sessions that read rows.
#[derive(Clone, Copy)]
pub(crate) struct RowReaders<'a> {
    /// The session that reads if only one reads.
    pub(crate) keeper: &'a Session,
    /// The sessions that may read in parallel.
    pub(crate) others: &'a [&'a Session],
}

impl CachedRows {
    /// Reads all rows that are visible in the coverage at `zooms`, into a scratch file if they take more memory than
    /// `limits` allows. `None` if the number of rows is not the one that `limits` expects.
    pub(crate) async fn read_all(
        readers: RowReaders<'_>,
        layer: &Layer,
        coverage: &Coverage,
        zooms: &[Zoom],
        limits: CacheLimits,
    ) -> Result<Option<CachedRows>, Error> {
        let CacheLimits { rows, memory, spill, by_key } = limits;
        let room = RowsRoom { memory, spill, by_key };
        let boxes = search_boxes(layer, coverage, zooms);
        let values = QueryValues::of_coverage(layer, coverage, zooms);
        let near = boxes.iter().flatten().map(|column| -> Param<'_> { (column as _, Type::FLOAT8_ARRAY) });
        let params: Vec<Param<'_>> = near.chain(values.params(layer)).collect();
        let boxes = boxes.as_ref().map_or(0, |columns| columns[0].len());
        if !layer.shape.points {
            let context = format!("layer \"{}\", looking at some of its rows", layer.name);
            let some = readers.keeper.one(&context, &sql::some_shapes(layer, boxes), &params).await?;
            let (are_others, bytes): (Option<bool>, Option<f64>) = (some.get(0), some.get(1));
            let all = rows.count() as f64 * (bytes.unwrap_or_default() + MIN_SHAPE_BYTES as f64);
            let refused = if are_others == Some(true) {
                Some(RowsRefused::OtherShapes)
            } else {
                (all > memory as f64).then_some(RowsRefused::TooLarge)
            };
            if let Some(refused) = refused {
                tracing::info!("layer \"{}\": its rows are not cached: {}", layer.name, refused.text());
                return Ok(None);
            }
        }
        let scan = RowScan { boxes, params: &params, with_values: true, rows: Some(rows.count()) };
        let ranges = split::key_ranges(readers.keeper, layer, scan, readers.others.len()).await?;
        let whole = [RowChoice::Boxes { boxes, rows, keys: None }];
        let parts: Vec<RowChoice<'_>> =
            ranges.iter().map(|keys| RowChoice::Boxes { boxes, rows, keys: Some(keys) }).collect();
        if parts.len() > 1 {
            return CachedRows::read(readers.others, layer, &parts, params, room).await;
        }
        CachedRows::read(&[readers.keeper], layer, &whole, params, room).await
    }

    /// Reads some rows, each part in its own session. `parts` must be in the order of the keys. `None` if the number of
    /// rows is not as expected, or if they take more memory than there is and may not spill.
    pub(crate) async fn read(
        sessions: &[&Session],
        layer: &Layer,
        parts: &[RowChoice<'_>],
        mut params: Vec<Param<'_>>,
        room: RowsRoom,
    ) -> Result<Option<CachedRows>, Error> {
        if matches!(parts, [RowChoice::Areas { .. }, ..]) && room.memory == 0 {
            // The statement would return no row, as if there were none.
            return Ok(None);
        }
        let (name, extent, max_bytes) = (params.len() + 1, params.len() + 2, params.len() + 3);
        let parameters = CachedRowsParameters { name, extent, max_bytes };
        let key_types = room.keys_behind(layer);
        let layer_extent = layer.margin.extent.cast_signed();
        let (expected, max_rows, max_bytes) = match parts {
            [RowChoice::Areas { limit }, ..] => (None, *limit, i64::try_from(room.memory).unwrap_or(i64::MAX)),
            [RowChoice::Boxes { rows, .. }, ..] => (Some(*rows), u64::MAX, i64::MAX),
            [] => return Ok(None),
        };
        let own: [Param<'_>; 3] = [(&layer.name, Type::TEXT), (&layer_extent, Type::INT4), (&max_bytes, Type::INT8)];
        params.extend(own);
        let mut reading = Reading::new(layer, expected, room, parts.len());
        if !layer.shape.points && matches!(parts, [RowChoice::Boxes { .. }, ..]) {
            let rules = match sessions.first() {
                Some(session) => rules_of_server(session, &layer.name).await?,
                None => None,
            };
            if rules.is_none() {
                tracing::info!("layer \"{}\": its rows are not cached: {}", layer.name, RowsRefused::OtherRules.text());
                return Ok(None);
            }
            reading.rules = rules;
        }
        let reading = Mutex::new((reading, None));
        let context = format!("layer \"{}\", reading its rows", layer.name);
        let statements = sessions.iter().zip(parts).enumerate().map(async |(number, (session, part))| {
            let statement = sql::cached_rows(layer, *part, parameters, key_types.as_ref());
            let keys = match part {
                RowChoice::Boxes { keys, .. } => *keys,
                RowChoice::Areas { .. } => None,
            };
            let params: Vec<Param<'_>> =
                params.iter().cloned().chain(keys.into_iter().flat_map(KeyRange::params)).collect();
            let each = |row: &Row| {
                let mut reading = reading.lock();
                let (reading, refused) = &mut *reading;
                if refused.is_none() {
                    *refused = reading.add(number, row, key_types.as_ref()).err();
                }
                Ok(())
            };
            session.each(&context, &statement, &params, each).await
        });
        // All statements are waited for, even if one failed, because the sessions are used again.
        for read in join_all(statements).await {
            read?;
        }
        let (reading, refused) = reading.into_inner();
        let rows = reading.rows();
        let read = match refused {
            Some(refused) => Err(refused),
            None if rows >= max_rows => Err(RowsRefused::TooManyDirtyTiles),
            None if matches!(expected, Some(ExpectedRows::Counted(counted)) if counted != rows) => {
                Err(RowsRefused::Others)
            }
            None => reading.finish().await,
        };
        match read {
            Ok(store) => {
                let cached = CachedRows { rows: store, sessions: parts.len(), near: None };
                let (name, bytes) = (&layer.name, cached.bytes());
                let place = if matches!(cached.rows, RowStore::File(_)) || cached.file_bytes() > 0 {
                    "in a scratch file, with"
                } else {
                    "in"
                };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgis::layer::example_layer;

    /// Without room a statement returns no row, which must not be taken for squares that have become empty.
    #[test]
    fn rows_of_squares_are_not_read_into_memory_that_is_used_up() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let room = |memory| RowsRoom { memory, spill: Spill::Nothing, by_key: false };
        let found = |memory| {
            let (layer, parts) = (example_layer(), [RowChoice::Areas { limit: 9 }]);
            let read = CachedRows::read(&[], &layer, &parts, Vec::new(), room(memory));
            runtime.block_on(read).unwrap().map(|rows| rows.count())
        };
        assert_eq!((found(0), found(1_000)), (None, Some(0)));
    }
}
