//! Measures what the program does apart from the database: packing and storing small tiles.
//! `cargo bench --bench encode` prints tiles a second and bytes for each gzip level, for other encoders of deflate, and
//! for the archives. `cargo bench --bench encode -- FILE.mbtiles` packs the tiles of an archive instead of generated
//! ones.

use std::error::Error;
use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use libdeflater::{CompressionLvl, Compressor};
use oar_tiles::encode::{Gunzip, Gzip, Level, TileFormat};
use oar_tiles::stop::Stop;
use oar_tiles::target::{Mbtiles, Metadata, OpenMode, Pmtiles, Sink as _, TileEdit};
use oar_tiles::tile::{LonLatBox, Order, TileCoord, Zoom};

/// Tiles in a measurement, and how often it is repeated; the fastest counts.
const TILES: u32 = 50_000;
const REPEATS: u32 = 5;

/// Something like a tile of one or two facilities: keys, a name, an address, some numbers.
fn tile(number: u32) -> Vec<u8> {
    let noise = |salt: u32| number.wrapping_mul(2_654_435_761).wrapping_add(salt.wrapping_mul(40_503)) >> 7;
    let mut tile =
        b"\x1a\x00\x0a\x0afacilities\x12\x15\x12\x0a\x00\x00\x01\x01\x02\x02\x03\x03\x04\x04\x18\x01\x22\x05\x09"
            .to_vec();
    tile.extend(noise(1).to_le_bytes());
    for key in ["id", "name", "address", "country_code", "is_closed"] {
        tile.extend([0x1a, u8::try_from(key.len()).unwrap_or(0)]);
        tile.extend(key.as_bytes());
    }
    let places = ["Dhaka", "Guangzhou", "Ho Chi Minh City", "Tiruppur", "Istanbul", "Porto"];
    let trades = ["Apparel", "Textile Mills", "Knitwear", "Denim", "Garments", "Footwear"];
    for feature in 0..=number % 2 {
        let pick = |from: &[&str; 6], salt: u32| from[(noise(salt + feature) % 6) as usize].to_owned();
        let text = format!(
            "BD2019{:09}{:02X} {} {} Co., Ltd. {} Industrial Road, {}",
            noise(2 + feature),
            noise(3) % 256,
            pick(&places, 4),
            pick(&trades, 5),
            noise(6 + feature) % 400,
            pick(&places, 7)
        );
        tile.extend(text.as_bytes());
    }
    tile
}

/// The tiles of an archive, unpacked.
fn tiles_of(archive: &str) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let archive = rusqlite::Connection::open(archive)?;
    let mut tiles = archive.prepare("SELECT tile_data FROM tiles")?;
    let packed = tiles.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    let mut gunzip = Gunzip::new();
    packed.map(|packed| Ok(gunzip.unpack(&packed?)?)).collect()
}

/// An encoder of deflate and its name; it returns the bytes of a packed tile.
type Encoder = (String, Box<dyn FnMut(&[u8]) -> Result<usize, Box<dyn Error>>>);

/// The encoders that are compared: this program's levels, libdeflate alone, and zlib-rs, whose levels 1 and 2 write
/// what those of zlib-ng do.
fn encoders() -> Result<Vec<Encoder>, Box<dyn Error>> {
    let mut all: Vec<Encoder> = Vec::new();
    for level in (1..=12).filter_map(Level::new) {
        let mut gzip = Gzip::new(level);
        all.push((format!("gzip {level:?}"), Box::new(move |tile| Ok(gzip.pack(tile)?.len()))));
    }
    for level in [1, 6] {
        let mut compressor = Compressor::new(CompressionLvl::new(level).map_err(|error| format!("{error:?}"))?);
        let mut out = Vec::new();
        let pack = move |tile: &[u8]| {
            out.resize(compressor.gzip_compress_bound(tile.len()).max(out.len()), 0);
            Ok(compressor.gzip_compress(tile, &mut out)?)
        };
        all.push((format!("libdeflate {level}"), Box::new(pack)));
    }
    for level in [1, 2] {
        let (mut deflate, mut out) = (zlib_rs::Deflate::new(level, false, 15), Vec::new());
        let pack = move |tile: &[u8]| {
            out.resize((tile.len() * 2 + 64).max(out.len()), 0);
            deflate.reset();
            deflate.compress(tile, &mut out, zlib_rs::DeflateFlush::Finish).map_err(|error| format!("{error:?}"))?;
            // Plus header, checksum and length of gzip, which this encoder does not write.
            Ok(usize::try_from(deflate.total_out())? + 18)
        };
        all.push((format!("zlib-rs {level}"), Box::new(pack)));
    }
    Ok(all)
}

fn fastest(mut work: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let begun = Instant::now();
        work()?;
        best = best.min(begun.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout();
    let generated: Vec<Vec<u8>> = (0..TILES).map(tile).collect();
    // cargo adds an argument of its own.
    let archive = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let tiles = archive.map_or_else(|| Ok(generated.clone()), |archive| tiles_of(&archive))?;
    let raw: usize = tiles.iter().map(Vec::len).sum();
    writeln!(out, "{} tiles, {} bytes each", tiles.len(), raw / tiles.len().max(1))?;
    for (name, mut pack) in encoders()? {
        let mut bytes = 0;
        let seconds = fastest(|| {
            bytes = 0;
            for tile in &tiles {
                bytes += black_box(pack(tile)?);
            }
            Ok(())
        })?;
        writeln!(out, "{name}: {seconds:.2} s, {bytes} bytes, {:.1} % of the tiles'", share(bytes, raw))?;
    }
    let metadata = Metadata {
        name: "bench".to_owned(),
        format: TileFormat::MVT,
        description: None,
        attribution: None,
        version: None,
        zooms: "14".parse()?,
        bounds: LonLatBox::from_sides([-180.0, -85.0, 180.0, 85.0]),
        center: None,
        vector_layers: Vec::new(),
        manifest: String::new(),
    };
    let (mut gzip, folder) = (Gzip::new(Level::new(1).ok_or("level 1")?), tempfile::tempdir()?);
    let zoom = Zoom::new(14).ok_or("zoom 14")?;
    let mut edits: Vec<TileEdit> = (0..TILES)
        .map(|i| {
            Ok(TileEdit::Put(
                TileCoord::from_tms(zoom, i / 100 * 7, i % 100 * 11).into(),
                gzip.pack(&generated[i as usize])?,
            ))
        })
        .collect::<Result<_, Box<dyn Error>>>()?;
    let mut number = 0;
    let seconds = fastest(|| {
        number += 1;
        let mut archive =
            Mbtiles::open(&folder.path().join(format!("{number}.mbtiles")), OpenMode::Replace, &Stop::new())?;
        for batch in edits.chunks(2_000) {
            archive.write(batch.to_vec())?;
        }
        archive.finish(&metadata).map(drop)?;
        Ok(())
    })?;
    writeln!(out, "MBTiles:       {:>9.0} tiles/s", f64::from(TILES) / seconds)?;
    edits.sort_by_key(|edit| Order::Hilbert.sort_key(edit.id().coord));
    let seconds = fastest(|| {
        number += 1;
        let mut archive = Pmtiles::create(&folder.path().join(format!("{number}.pmtiles")), &Stop::new())?;
        for batch in edits.chunks(2_000) {
            archive.write(batch.to_vec())?;
        }
        archive.finish(&metadata).map(drop)?;
        Ok(())
    })?;
    writeln!(out, "PMTiles:       {:>9.0} tiles/s", f64::from(TILES) / seconds)?;
    Ok(())
}

fn share(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole as f64
}
