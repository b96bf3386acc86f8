//! The sources of a copy: which tiles they hold, and the bytes of each tile for the target.

use std::borrow::Cow;

use tokio::sync::mpsc;

use crate::encode::{Gunzip, Level, Packer, Packing, TileCompression, TileFormat, is_gzip};
use crate::mvt;
use crate::run::CommandError;
use crate::stop::Stop;
use crate::target::{TileEdit, TileReader, read_all};
use crate::tile::{Order, TileId};

/// The most tiles that are handed to the sink at a time.
const MAX_TILES_PER_CHUNK: usize = 500;

/// The most tiles that are in memory at a time when tiles are assembled from layers.
const MAX_ASSEMBLED_TILES: usize = 50;

/// The most bytes of tiles that are handed to the sink at a time, unless one tile alone has more.
const MAX_BYTES_PER_CHUNK: usize = 8 << 20;

#[derive(Debug, Clone, Copy)]
pub(crate) struct SourceTile {
    pub(crate) id: TileId,
    pub(crate) source: usize,
}

pub(crate) struct Sources {
    pub(crate) readers: Vec<Box<dyn TileReader>>,
    pub(crate) names: Vec<String>,
    pub(crate) tiles: Vec<SourceTile>,
    /// The layers that are copied; all if empty.
    pub(crate) layers: Vec<String>,
}

impl Sources {
    /// Sorts the tiles, unless the readers have already listed them in this order.
    pub(crate) fn sort(&mut self, order: Order) {
        let place = |tile: &SourceTile| (order.sort_key(tile.id.coord), tile.source);
        if !self.tiles.is_sorted_by_key(place) {
            self.tiles.sort_by_cached_key(place);
        }
    }

    /// True if tiles are copied as they are stored.
    fn is_plain(&self) -> bool {
        self.layers.is_empty() && self.readers.len() == 1
    }

    /// Reads chunk after chunk until all are read, a stop is asked for, or the receiver is gone. Returns the number of
    /// tiles that were handed on.
    pub(crate) fn hand_on(
        mut self,
        packing: Repacking,
        stop: &Stop,
        chunks: &mpsc::Sender<Vec<TileEdit>>,
    ) -> Result<u64, CommandError> {
        let mut hands = Hands { packing, edits: Vec::new(), bytes: 0, handed: 0, chunks };
        let tiles = std::mem::take(&mut self.tiles);
        let most = if self.is_plain() { MAX_TILES_PER_CHUNK } else { MAX_ASSEMBLED_TILES };
        let mut rest = &tiles[..];
        while !rest.is_empty() {
            stop.check()?;
            let mut end = most.min(rest.len());
            while end < rest.len() && rest[end].id == rest[end - 1].id {
                end += 1;
            }
            let (chunk, later) = rest.split_at(end);
            if self.is_plain() {
                self.read_plain(chunk, &mut hands)?;
            } else {
                self.read_assembled(chunk, &mut hands)?;
            }
            if !hands.flush() {
                // The sink has failed, and its error is the cause.
                break;
            }
            rest = later;
        }
        Ok(hands.handed)
    }

    fn read_plain(&mut self, chunk: &[SourceTile], hands: &mut Hands<'_>) -> Result<(), CommandError> {
        let ids: Vec<TileId> = chunk.iter().map(|tile| tile.id).collect();
        read_all(&mut *self.readers[0], &ids, |id, stored| hands.add(*id, stored.ok_or_else(|| lost(*id))?))
    }

    /// Reads each tile from all sources that have it, and assembles its layers.
    fn read_assembled(&mut self, chunk: &[SourceTile], hands: &mut Hands<'_>) -> Result<(), CommandError> {
        let mut found: Vec<Option<Box<[u8]>>> = vec![None; chunk.len()];
        for (source, reader) in self.readers.iter_mut().enumerate() {
            let own: Vec<usize> = (0..chunk.len()).filter(|number| chunk[*number].source == source).collect();
            let ids: Vec<TileId> = own.iter().map(|number| chunk[*number].id).collect();
            let mut numbers = own.iter();
            read_all(&mut **reader, &ids, |id, stored| {
                if let Some(number) = numbers.next() {
                    found[*number] = Some(stored.ok_or_else(|| lost(*id))?);
                }
                Ok::<(), CommandError>(())
            })?;
        }
        let mut number = 0;
        for of_tile in chunk.chunk_by(|one, other| one.id == other.id) {
            let id = of_tile[0].id;
            let mut parts = Vec::with_capacity(of_tile.len());
            for tile in of_tile {
                let stored = found[number].take().ok_or_else(|| lost(id))?;
                number += 1;
                parts.push((tile.source, stored));
            }
            if let ([(_, stored)], true) = (&mut parts[..], self.layers.is_empty()) {
                hands.add(id, std::mem::take(stored))?;
                continue;
            }
            let tile = self.assembled(id, &parts, &mut hands.packing)?;
            if !tile.is_empty() {
                let encoded = (hands.packing.format.of_mvt)(&tile);
                hands.add(id, encoded.into())?;
            }
        }
        Ok(())
    }

    /// The wanted layers of a tile, source by source.
    fn assembled(
        &self,
        id: TileId,
        parts: &[(usize, Box<[u8]>)],
        packing: &mut Repacking,
    ) -> Result<Vec<u8>, CommandError> {
        let (mut tile, mut there): (Vec<u8>, Vec<(String, usize)>) = (Vec::new(), Vec::new());
        for (source, stored) in parts {
            let raw = packing.mvt(id, stored)?;
            let broken = || CommandError::Unfit {
                target: self.names[*source].clone(),
                what: format!("tile {id} cannot be decoded. Seed it again; verify names all such tiles"),
            };
            for (name, layer) in mvt::split(&raw).ok_or_else(broken)? {
                if !self.layers.is_empty() && !self.layers.iter().any(|wanted| wanted == name) {
                    continue;
                }
                if let Some((_, other)) = there.iter().find(|(other, from)| other == name && from != source) {
                    return Err(CommandError::Unfit {
                        target: self.names[*source].clone(),
                        what: format!(
                            "tile {id} has the layer \"{name}\", and so has that tile of {}: a layer of a tile can come from one source only. Choose zooms, boxes or layers, so that they share none",
                            self.names[*other]
                        ),
                    });
                }
                there.push((name.to_owned(), *source));
                mvt::put_layer(&mut tile, layer);
            }
        }
        Ok(tile)
    }
}

pub(crate) fn lost(id: TileId) -> CommandError {
    CommandError::Vanished { tile: id, changed: "the source changed" }
}

/// Compresses or decompresses tiles as the target stores them. Their encoding stays.
pub(crate) struct Repacking {
    packed: bool,
    format: TileFormat,
    gunzip: Gunzip,
    gzip: Packer,
}

impl Repacking {
    pub(crate) fn new(packed: bool, format: TileFormat) -> Repacking {
        // Level 6 is gzip's default. A copy compresses only tiles that another program stored uncompressed, or that are
        // assembled. They are encoded already, so the packer only compresses.
        let gzip = Packing::mvt(Level::new(6).map_or(TileCompression::None, TileCompression::Gzip));
        Repacking { packed, format, gunzip: Gunzip::new(), gzip: Packer::new(gzip) }
    }

    fn mvt(&mut self, id: TileId, stored: &[u8]) -> Result<Vec<u8>, CommandError> {
        let encoded = self.unpacked(id, stored)?;
        let mvt = (self.format.to_mvt)(encoded.into());
        mvt.map(Cow::into_owned).map_err(|cause| CommandError::Decode { tile: id, cause })
    }

    fn unpacked(&mut self, id: TileId, stored: &[u8]) -> Result<Vec<u8>, CommandError> {
        self.gunzip.unpack(stored).map_err(|cause| CommandError::Decode { tile: id, cause })
    }

    pub(crate) fn repacked(&mut self, id: TileId, stored: Box<[u8]>) -> Result<Box<[u8]>, CommandError> {
        match (self.packed, is_gzip(&stored)) {
            (true, false) => Ok(self.gzip.pack(&stored)?),
            (false, true) => Ok(self.unpacked(id, &stored)?.into_boxed_slice()),
            _ => Ok(stored),
        }
    }
}

/// Hands tiles on to the sink.
struct Hands<'a> {
    packing: Repacking,
    edits: Vec<TileEdit>,
    bytes: usize,
    handed: u64,
    chunks: &'a mpsc::Sender<Vec<TileEdit>>,
}

impl Hands<'_> {
    fn add(&mut self, id: TileId, stored: Box<[u8]>) -> Result<(), CommandError> {
        let bytes = self.packing.repacked(id, stored)?;
        self.bytes += bytes.len();
        self.edits.push(TileEdit::Put(id, bytes));
        self.handed += 1;
        if self.bytes >= MAX_BYTES_PER_CHUNK {
            self.flush();
        }
        Ok(())
    }

    /// False if the sink is gone.
    fn flush(&mut self) -> bool {
        self.bytes = 0;
        self.chunks.blocking_send(std::mem::take(&mut self.edits)).is_ok()
    }
}
