"""Other programs that make the same tiles, those that are on the PATH, in turns with the seed: martin-cp, martin's bulk mode, tippecanoe, freestiler.

What each wrote is decoded, and the features of each tile are counted beside those of the seed."""

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass, field

from .bench import listed, median, megabytes, remove

# The properties of the seed, as a file of features: the export is not counted.
EXPORT = """
\\set FETCH_COUNT 10000
SELECT json_build_object('type', 'Feature', 'geometry', ST_AsGeoJSON(ST_Transform(:"geometry", 4326), 15)::json, 'properties',
    (SELECT json_object_agg(key, value) FROM jsonb_each(to_jsonb(f) - :'geometry')
     WHERE key = ANY (:'fields'::text[]) AND value <> 'null'))
FROM :"table" AS f;
"""

# freestiler (PyPI) draws the features of a GeoDataFrame: file of features, archive, layer, zooms.
FREESTILER = """
import sys, geopandas, freestiler
frame = geopandas.read_file(sys.argv[1]).set_crs(4326, allow_override=True)
freestiler.freestile(frame, sys.argv[2], layer_name=sys.argv[3], min_zoom=int(sys.argv[4]), max_zoom=int(sys.argv[5]))
"""


@dataclass
class Peer:
    name: str
    # The archive that it writes.
    file: str
    command: list
    # Whether it reads the file of features.
    reads_file: bool = False
    # Seconds and peak memory of each run, beside the seconds of the seed before it.
    runs: list = field(default_factory=list)
    is_stopped: bool = False


def measure(bench):
    with sqlite3.connect(f"file:{bench.seeded.archive}?mode=ro", uri=True) as archive:
        layer = json.loads(archive.execute("SELECT value FROM metadata WHERE name = 'json'").fetchone()[0])["vector_layers"][0]
    beside(bench, "api_facility", "location", layer["id"], layer["fields"])


def beside(bench, table, geometry, layer, fields):
    """The seed of a table's layer, and each peer, in turns."""
    features = bench.file("features.geojsonl")
    peers = found(bench, table, layer, features)
    if any(peer.reads_file for peer in peers):
        fields = "{" + ",".join(json.dumps(field) for field in fields) + "}"
        with open(features, "w") as out:
            bench.psql("-v", f"fields={fields}", "-v", f"table={table}", "-v", f"geometry={geometry}", stdout=out, input=EXPORT)
    ours = bench.file("beside-peers.mbtiles")
    for _ in range(bench.runs):
        remove(ours)
        seconds, _ = bench.timed("seed", "--zoom", bench.zooms, "--output", ours)
        for peer in peers:
            if peer.is_stopped:
                continue
            remove(peer.file)
            taken, memory = bench.measured(peer.command, bench.options.peer_limit)
            peer.is_stopped = taken is None
            peer.runs.append((taken, memory, seconds))
    for peer in peers:
        shown(bench, peer, ours)
    remove(ours)
    remove(features)


def found(bench, table, layer, features):
    """The peers that are there."""
    peers = []
    # Several connections, as many as the seed has.
    of_martin = ["--mbtiles-type", "flat", "--min-zoom", bench.low, "--max-zoom", bench.high, "--pool-size", bench.workers, "--source", table, bench.url]
    martin_cp, bulk, tippecanoe, freestiler = (bench.file(f"{name}.{kind}") for name, kind in [
        ("martin-cp", "mbtiles"), ("bulk", "mbtiles"), ("tippecanoe", "mbtiles"), ("freestiler", "pmtiles")])
    if shutil.which("martin-cp"):
        peers.append(Peer(version("martin-cp"), martin_cp, ["martin-cp", "--output-file", martin_cp, "--concurrency", bench.workers, *of_martin]))
    if has_bulk_mode():
        command = ["martin", "cp", "--mode", "bulk", "--format", "mvt", "--threads", bench.workers, "--output-file", bulk, *of_martin]
        peers.append(Peer(f"{version('martin')}, bulk mode", bulk, command))
    if shutil.which("tippecanoe"):
        os.environ["TIPPECANOE_MAX_THREADS"] = bench.workers
        # Nothing dropped, nothing thinned; a buffer of 4/256 of a tile is the 64/4096 of the seed.
        command = ["tippecanoe", "--quiet", "--force", "-o", tippecanoe, "-l", layer, "-Z", bench.low, "-z", bench.high, "-r1",
                   "--no-feature-limit", "--no-tile-size-limit", "--no-tiny-polygon-reduction", "--buffer=4", "--read-parallel", features]
        peers.append(Peer(version("tippecanoe"), tippecanoe, command, reads_file=True))
    if has_freestiler():
        command = ["python3", "-c", FREESTILER, features, freestiler, layer, bench.low, bench.high]
        peers.append(Peer("freestiler, as it is", freestiler, command, reads_file=True))
    names = " ".join(peer.command[0] + " " + peer.name for peer in peers)
    missing = [name for name in ("martin-cp", "bulk mode", "tippecanoe", "freestiler") if name not in names]
    if missing:
        bench.note(f"not on the PATH, so skipped: {', '.join(missing)}.")
    return peers


def version(program):
    """The name of a program with its version, as it says itself."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True)
    line = (said.stdout + said.stderr).strip().partition("\n")[0]
    return line if program in line else f"{program} {line}"


def has_freestiler():
    """Whether the python3 on the PATH has freestiler, and geopandas, which reads its features."""
    return subprocess.run(["python3", "-c", "import freestiler, geopandas"], stderr=subprocess.DEVNULL).returncode == 0


def has_bulk_mode():
    """Whether the martin on the PATH is one that renders many tiles by one statement."""
    if not shutil.which("martin"):
        return False
    return "bulk" in subprocess.run(["martin", "cp", "--help"], capture_output=True, text=True).stdout


def shown(bench, peer, ours):
    """The row of a peer, and what it wrote beside what the seed wrote."""
    if peer.is_stopped:
        limit, seconds = bench.options.peer_limit, peer.runs[-1][2]
        bench.row(peer.name, f"> {limit} s", f"{peer.runs[-1][1]:.0f} MB", "stopped", ratio=f"> {limit / seconds:.0f} x seed")
    else:
        ratios = [taken / seconds for taken, _, seconds in peer.runs]
        tiles = features_of_tiles(bench, peer.file)
        bench.row(peer.name, f"{median(taken for taken, _, _ in peer.runs):.2f} s", f"{max(memory for _, memory, _ in peer.runs):.0f} MB",
                  f"{len(tiles):,}", megabytes(peer.file), f"{median(ratios):.1f} x seed ({listed(ratios, '.1f')})")
        bench.note(f"{peer.name}: {compared(features_of_tiles(bench, ours), tiles)}")
    remove(peer.file)


def compared(ours, theirs):
    """How the tiles of a peer differ from those of the seed, in words. Programs order and round features each in their own way, so these are counted."""
    both = ours.keys() & theirs.keys()
    alike = sum(ours[tile] == theirs[tile] for tile in both)
    return (f"{sum(theirs.values()):,} features in all tiles, the seed {sum(ours.values()):,}; of {len(both):,} tiles that both have, {alike:,} have as many "
            f"features; {len(ours) - len(both):,} are only in the seed, {len(theirs) - len(both):,} only in the other.")


def features_of_tiles(bench, file):
    """The number of features of each tile of an archive, decoded."""
    if file.endswith(".pmtiles"):
        flat = bench.file("flat.mbtiles")
        subprocess.run([bench.oar_tiles, "copy", "--force", "--quiet", file, flat], check=True)
        file = flat
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as archive:
        rows = archive.execute("SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles")
        return {tuple(row[:3]): features(row[3]) for row in rows}


def features(blob):
    """The number of features in all layers of a vector tile (MVT 2.1: the layers are field 3 of a tile, the features field 2 of a layer)."""
    tile = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
    return sum(1 for layer in fields(tile, 0, len(tile), 3) for _ in fields(tile, *layer, 2))


def fields(message, at, end, wanted):
    """Where the fields of a number begin and end that have a length, in a part of a protobuf message."""
    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < end:
        key = varint()
        if key & 7 == 2:
            length = varint()
            if key >> 3 == wanted:
                yield at, at + length
            at += length
        elif key & 7 == 0:
            varint()
        else:
            at += 8 if key & 7 == 1 else 4
