//! The reader of MBTiles archives of any program. Their tiles are a table, or a view over tables that hold each
//! distinct content once.

use std::collections::BTreeMap;
use std::io;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, ffi};

use super::SqliteCause;
use super::companions::{COMPANIONS, Guard, OpenFile, as_it_lies, beside, clear_away, unless_open};
use super::patch::BEFORE_KEY;
use super::view::unfit;
use crate::encode::{MAX_STORED_TILE, TileFormat};
use crate::target::metadata::MANIFEST_KEY;
use crate::target::read::{MAX_NOTE, ReadAllowance, Total};
use crate::target::{Described, ReadError, TileReader, VectorLayer, lock_file};
use crate::tile::{LonLatBox, Order, TileCoord, TileId, Zoom};

const KIND: &str = "MBTiles archive of vector tiles";

/// The query of one tile.
pub(crate) const POINT: &str =
    "SELECT tile_data FROM tiles WHERE zoom_level = ?1 AND tile_column = ?2 AND tile_row = ?3";

/// A reader of an archive. It reads in one transaction, so it sees one state even if other programs write in the
/// meantime.
#[derive(Debug)]
pub struct MbtilesReader {
    pub(crate) connection: Connection,
    // Dropped after the connection.
    _open: OpenFile,
    pub(crate) path: PathBuf,
    pub(crate) guard: Guard,
    total: Total,
    /// True once it is known that an index finds single tiles.
    is_indexed: bool,
}

impl MbtilesReader {
    /// Opens an archive for reading. If a killed program has left it half written, SQLite first undoes that.
    /// Fails if the archive does not exist, or the file is something else.
    pub fn open(path: &Path) -> Result<MbtilesReader, ReadError> {
        begins_as_sqlite(path)?;
        let open = || MbtilesReader::open_read_only(path, path, OpenFlags::empty());
        match open() {
            Err(ReadError::HalfWritten { .. }) => {
                clear_away(path);
                open()
            }
            opened => opened,
        }
    }

    /// Opens an archive that no program is writing, without creating a file next to it.
    /// Fails if the archive does not exist, or the file is something else.
    pub fn as_it_lies(path: &Path) -> Result<MbtilesReader, ReadError> {
        begins_as_sqlite(path)?;
        MbtilesReader::open_read_only(path, Path::new(&as_it_lies(path)), OpenFlags::SQLITE_OPEN_URI)
    }

    /// Opens the archive `path` by the name `named` that SQLite is given.
    fn open_read_only(path: &Path, named: &Path, more: OpenFlags) -> Result<MbtilesReader, ReadError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
        let guard = Guard::of(path);
        let open = OpenFile::of(path);
        let opened = Connection::open_with_flags(named, flags).and_then(|mut connection| {
            Guard::limit(&connection)?;
            guard.watch(&mut connection, || false)?;
            // `cell_size_check` detects broken pages. One transaction saves three system calls for each tile. The cache
            // of 8 MB holds the inner pages of the index of ten million tiles. It is small because each worker of a
            // reseed has a reader, and pages of tiles are not read twice.
            connection.execute_batch("PRAGMA cell_size_check = ON; PRAGMA cache_size = -8000; BEGIN;")?;
            Ok(connection)
        });
        let connection = opened.map_err(|error| failed(path, error))?;
        MbtilesReader::over(connection, path.to_owned(), guard, open)
    }

    /// A reader over a connection to the archive; `guard` watches the connection.
    pub(crate) fn over(
        connection: Connection,
        path: PathBuf,
        guard: Guard,
        open: OpenFile,
    ) -> Result<MbtilesReader, ReadError> {
        let total = Total::of(guard.size);
        let reader = MbtilesReader { connection, _open: open, path, guard, total, is_indexed: false };
        reader.is_of_vector_tiles()?;
        Ok(reader)
    }

    pub(crate) fn place(&self) -> String {
        self.path.display().to_string()
    }

    pub(crate) fn failed(&self, error: rusqlite::Error) -> ReadError {
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) if self.guard.is_spent() => {
                self.damaged("reading it takes more steps than its size explains".to_owned())
            }
            _ => failed(&self.path, error),
        }
    }

    fn foreign(&self, what: String) -> ReadError {
        ReadError::Foreign { place: self.place(), kind: KIND, what }
    }

    pub(crate) fn damaged(&self, what: String) -> ReadError {
        ReadError::Damaged { place: self.place(), what }
    }

    /// Refuses databases without the tables of MBTiles 1.3, and archives of raster images.
    fn is_of_vector_tiles(&self) -> Result<(), ReadError> {
        for (table, columns) in
            [("metadata", &["name", "value"][..]), ("tiles", &["zoom_level", "tile_column", "tile_row", "tile_data"])]
        {
            self.guard.begin();
            if let Some(what) = unfit(&self.connection, table).map_err(|error| self.failed(error))? {
                return Err(self.foreign(what));
            }
            let mut info = self
                .connection
                .prepare("SELECT name FROM pragma_table_info(?1)")
                .map_err(|error| self.failed(error))?;
            let found = info.query_map([table], |row| row.get::<_, String>(0)).and_then(Iterator::collect);
            let found: Vec<String> = found.map_err(|error| self.failed(error))?;
            if let Some(missing) =
                columns.iter().find(|column| !found.iter().any(|name| name.eq_ignore_ascii_case(column)))
            {
                return Err(self.foreign(format!("its table {table} has no column {missing}")));
            }
        }
        let format = self.connection.query_row("SELECT value FROM metadata WHERE name = 'format'", [], |row| {
            Ok(text(row.get_ref(0)?).unwrap_or_default())
        });
        let is_patch = "SELECT 1 FROM metadata WHERE name = ?1";
        let is_patch = self.connection.query_row(is_patch, [BEFORE_KEY], |_row| Ok(())).optional();
        if is_patch.map_err(|error| self.failed(error))?.is_some() {
            let what = "it is a patch, which holds changes alone: apply it to the archive that it was made for (mbtiles apply-patch)";
            return Err(self.foreign(what.to_owned()));
        }
        match format.optional().map_err(|error| self.failed(error))? {
            Some(format) if TileFormat::named(&format).is_none() => {
                let shown: String = format.chars().take(60).collect();
                Err(self.foreign(format!("its tiles are of the format {shown:?}")))
            }
            _ => Ok(()),
        }
    }

    /// The rows of the metadata table, by name; if two rows have one name, the last one counts.
    pub(crate) fn metadata(&self) -> Result<BTreeMap<String, String>, ReadError> {
        self.guard.begin();
        let failed = |error| self.failed(error);
        let select = "SELECT name, value FROM metadata WHERE name IS NOT NULL";
        let mut select = self.connection.prepare(select).map_err(failed)?;
        let (mut rows, mut left) = (select.query([]).map_err(failed)?, MAX_NOTE);
        let mut metadata = BTreeMap::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let read = || Ok((text(row.get_ref(0)?), text(row.get_ref(1)?)));
            if let (Some(name), Some(value)) = read().map_err(failed)? {
                let fewer = left.checked_sub(name.len() + value.len());
                left = fewer.ok_or_else(|| {
                    self.damaged(format!("its metadata has more than the {} MB that are read", MAX_NOTE >> 20))
                })?;
                metadata.insert(name, value);
            }
        }
        Ok(metadata)
    }

    /// A value of the metadata, parsed by `read`; `None` if the row does not exist.
    fn parsed<T>(
        &self,
        rows: &BTreeMap<String, String>,
        name: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ReadError> {
        let Some(text) = rows.get(name) else { return Ok(None) };
        let shown: String = text.chars().take(60).collect();
        let wrong = || self.damaged(format!("its metadata has the {name} {shown:?}, which cannot be read"));
        read(text).map(Some).ok_or_else(wrong)
    }

    /// The tile coordinates of a row of the table.
    pub(crate) fn coord(&self, zoom: i64, column: i64, row: i64) -> Result<TileCoord, ReadError> {
        let tile = || {
            let zoom = Zoom::new(u8::try_from(zoom).ok()?)?;
            let row = zoom.last().checked_sub(u32::try_from(row).ok()?)?;
            TileCoord::new(zoom, u32::try_from(column).ok()?, row)
        };
        tile().ok_or_else(|| {
            let deepest = Zoom::MAX;
            let row = format!("zoom_level {zoom}, tile_column {column}, tile_row {row}");
            self.damaged(format!("it has a row outside of its zoom, or of a zoom beyond {deepest} ({row})"))
        })
    }
}

/// The page cache of a reader that is kept open, in kilobytes. It is small because a server has several readers, and
/// the operating system also caches the file.
const KEPT_OPEN_CACHE_KB: u32 = 2_000;

impl TileReader for MbtilesReader {
    fn keep_open(&mut self) -> Result<(), ReadError> {
        // Ends the transaction: from here on each statement is a transaction of its own.
        let ended = self.connection.execute_batch(&format!("COMMIT; PRAGMA cache_size = -{KEPT_OPEN_CACHE_KB}"));
        ended.map_err(|error| self.failed(error))?;
        self.total = Total::unlimited();
        Ok(())
    }

    fn describe(&mut self) -> Result<Described, ReadError> {
        let mut rows = self.metadata()?;
        let zoom = |text: &str| text.trim().parse::<u8>().ok().filter(|zoom| *zoom <= 30);
        let zooms = self.parsed(&rows, "minzoom", zoom)?.zip(self.parsed(&rows, "maxzoom", zoom)?);
        let bounds = self.parsed(&rows, "bounds", |text| {
            let sides: Vec<f64> = text.split(',').map(|side| side.trim().parse().ok()).collect::<Option<_>>()?;
            let sides = <[f64; 4]>::try_from(sides).ok().filter(|sides| sides.iter().all(|side| side.is_finite()));
            sides.map(LonLatBox::from_sides)
        })?;
        let center = self.parsed(&rows, "center", |text| text.parse().ok())?;
        let vector_layers = self.parsed(&rows, "json", vector_layers)?.unwrap_or_default();
        let mut taken = |name: &str| rows.remove(name);
        Ok(Described {
            name: taken("name"),
            format: taken("format").and_then(|format| TileFormat::named(&format)).unwrap_or_default(),
            description: taken("description"),
            attribution: taken("attribution"),
            version: taken("version"),
            zooms,
            bounds,
            center,
            vector_layers,
            generator: taken("generator"),
            manifest: taken(MANIFEST_KEY),
            public_url: None,
            unfinished: Vec::new(),
            dead: None,
        })
    }

    fn check(&mut self) -> Result<Vec<String>, ReadError> {
        self.check_archive()
    }

    fn list(&mut self) -> Result<Vec<TileId>, ReadError> {
        self.guard.begin();
        let order = Order::ZoomColumnTmsRow;
        let mut places = Vec::new();
        let mut rows = self
            .connection
            .prepare("SELECT zoom_level, tile_column, tile_row FROM tiles")
            .map_err(|error| self.failed(error))?;
        let mut rows = rows.query([]).map_err(|error| self.failed(error))?;
        while let Some(row) = rows.next().map_err(|error| self.failed(error))? {
            if places.len() as u64 >= self.guard.max_rows() {
                return Err(self.damaged("it lists more tiles than a file of its size can hold".to_owned()));
            }
            let number = |column| row.get::<_, i64>(column).map_err(|error| self.failed(error));
            places.push(order.sort_key(self.coord(number(0)?, number(1)?, number(2)?)?));
        }
        if !places.is_sorted() {
            places.sort_unstable();
        }
        let tile = |place| order.tile(place).map(TileId::from);
        if let Some(twice) = places.windows(2).find(|pair| pair[0] == pair[1]).and_then(|pair| tile(pair[0])) {
            return Err(self.damaged(format!("it has two rows for tile {twice}")));
        }
        Ok(places.into_iter().filter_map(tile).collect())
    }

    fn read(&mut self, tiles: &[TileId]) -> Result<Vec<Option<Box<[u8]>>>, ReadError> {
        if !self.is_indexed {
            self.refuse_unindexed()?;
            self.is_indexed = true;
        }
        let mut point = self.connection.prepare_cached(POINT).map_err(|error| self.failed(error))?;
        let (mut allowance, mut found) = (ReadAllowance::new(), Vec::new());
        for id in tiles {
            // An archive holds whole tiles only.
            if id.slice != crate::tile::Slice::Whole {
                found.push(None);
                continue;
            }
            self.guard.begin();
            let tile = id.coord;
            let data = point
                .query_row((tile.zoom().get(), tile.x(), tile.tms_row()), |row| Ok(bytes(row.get_ref(0)?)))
                .optional();
            let data = match data.map_err(|error| self.failed(error))? {
                Some(None) => return Err(self.damaged(format!("the tile_data of tile {tile} is no blob"))),
                data => data.flatten(),
            };
            if !allowance.take(data.as_deref()) {
                break;
            }
            if !self.total.take(data.as_deref()) {
                return Err(self.damaged("its tiles add up to a hundred times its size".to_owned()));
            }
            found.push(data);
        }
        Ok(found)
    }
}

/// The layers in the row "json" (MBTiles 1.3, section "Vector tileset metadata").
fn vector_layers(json: &str) -> Option<Vec<VectorLayer>> {
    #[derive(serde::Deserialize)]
    struct MetadataJson {
        #[serde(default)]
        vector_layers: Vec<VectorLayer>,
    }
    serde_json::from_str::<MetadataJson>(json).ok().map(|json| json.vector_layers)
}

/// A value as text; some writers store numbers.
fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(String::from_utf8_lossy(text).into_owned()),
    }
}

pub(crate) fn bytes(value: ValueRef<'_>) -> Option<Box<[u8]>> {
    if let ValueRef::Blob(bytes) = value { Some(bytes.into()) } else { None }
}

/// The first bytes of a file.
fn begin(path: &Path) -> io::Result<Vec<u8>> {
    let mut magic = Vec::new();
    lock_file::open_named(path)?.take(16).read_to_end(&mut magic)?;
    Ok(magic)
}

fn begins_as_sqlite(path: &Path) -> Result<(), ReadError> {
    let place = path.display().to_string();
    let foreign = |what: &str| {
        let place = path.display().to_string();
        Err(ReadError::Foreign { place, kind: KIND, what: what.to_owned() })
    };
    let refused = |source| ReadError::Io { path: path.to_owned(), source };
    let opened = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return foreign("it is a directory"),
        // Opening a pipe would wait for a writer.
        Ok(found) if !found.is_file() => return foreign("it is no regular file"),
        Ok(_) => match unless_open(path, || begin(path)) {
            Some(begun) => begun,
            // SQLite has it open already.
            None => Ok(super::KIND.magic.to_vec()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::Missing { place }),
        Err(source) => return Err(refused(source)),
    };
    let magic = opened.map_err(refused)?;
    // SQLite opens these files, which lie next to the database, by their names alone.
    let real = path.canonicalize().map_err(refused)?;
    for companion in COMPANIONS.map(|end| beside(&real, end)) {
        if std::fs::symlink_metadata(&companion).is_ok_and(|found| !found.is_file()) {
            return foreign(&format!("{} beside it is no regular file: remove that", companion.display()));
        }
    }
    match &*magic {
        b"SQLite format 3\0" => Ok(()),
        b"" => foreign("it is empty"),
        _ => foreign("it is not an SQLite file"),
    }
}

/// Converts SQLite's error to the error of a reader.
pub(crate) fn failed(path: &Path, error: rusqlite::Error) -> ReadError {
    let place = path.display().to_string();
    if error.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_READONLY_ROLLBACK) {
        return ReadError::HalfWritten { path: path.to_owned() };
    }
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            ReadError::Foreign { place, kind: KIND, what: "SQLite cannot read it".to_owned() }
        }
        Some(ErrorCode::TooBig) => {
            let most = MAX_STORED_TILE >> 20;
            ReadError::Damaged { place, what: format!("it holds a tile or another value of more than {most} MB") }
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::Unknown) | None => {
            ReadError::Damaged { place, what: format!("SQLite says \"{error}\"") }
        }
        Some(_) => ReadError::Io { path: path.to_owned(), source: io::Error::other(SqliteCause(error)) },
    }
}
