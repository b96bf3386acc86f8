"""Other programs that make the same tiles, those that are on the PATH, in turns with the seed: martin-cp, martin's bulk mode, tippecanoe, freestiler.

What each wrote is decoded and compared with the seed's tiles."""

import json
import os
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass, field

from .bench import listed, median, megabytes, remove
from .shapes import FREESTILER, has_freestiler

# The properties of the seed, as a file of features: the export is not counted.
EXPORT = """
\\set FETCH_COUNT 10000
SELECT json_build_object('type', 'Feature', 'geometry', ST_AsGeoJSON(location, 15)::json, 'properties',
    (SELECT json_object_agg(key, value) FROM jsonb_each(to_jsonb(f) - 'location')
     WHERE key = ANY (:'fields'::text[]) AND value <> 'null'))
FROM api_facility AS f;
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
    features = bench.file("features.geojsonl")
    peers = found(bench, layer, features)
    if any(peer.reads_file for peer in peers):
        fields = "{" + ",".join(json.dumps(field) for field in layer["fields"]) + "}"
        with open(features, "w") as out:
            bench.psql("-v", f"fields={fields}", stdout=out, input=EXPORT)
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


def found(bench, layer, features):
    """The peers that are there."""
    peers = []
    # Several connections, as many as the seed has.
    of_martin = ["--mbtiles-type", "flat", "--min-zoom", bench.low, "--max-zoom", bench.high, "--concurrency", bench.workers,
                 "--pool-size", bench.workers, "--source", "api_facility", bench.url]
    martin_cp, bulk, tippecanoe, freestiler = (bench.file(f"{name}.{kind}") for name, kind in [
        ("martin-cp", "mbtiles"), ("bulk", "mbtiles"), ("tippecanoe", "mbtiles"), ("freestiler", "pmtiles")])
    if shutil.which("martin-cp"):
        peers.append(Peer(version("martin-cp"), martin_cp, ["martin-cp", "--output-file", martin_cp, *of_martin]))
    if has_bulk_mode():
        command = ["martin", "cp", "--mode", "bulk", "--format", "mvt", "--output-file", bulk, *of_martin]
        peers.append(Peer(f"{version('martin')}, bulk mode", bulk, command))
    if shutil.which("tippecanoe"):
        os.environ["TIPPECANOE_MAX_THREADS"] = bench.workers
        # Nothing dropped, nothing thinned; a buffer of 4/256 of a tile is the 64/4096 of the seed.
        command = ["tippecanoe", "--quiet", "--force", "-o", tippecanoe, "-l", layer["id"], "-Z", bench.low, "-z", bench.high, "-r1",
                   "--no-feature-limit", "--no-tile-size-limit", "--buffer=4", "--read-parallel", features]
        peers.append(Peer(version("tippecanoe"), tippecanoe, command, reads_file=True))
    if has_freestiler():
        command = ["python3", "-c", FREESTILER, features, freestiler, layer["id"], bench.low, bench.high]
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
        zooms = compared(bench, ours, peer.file)
        total = {name: sum(zoom[name] for zoom in zooms) for name in ("equal", "differ", "only_a", "only_b")}
        bench.row(peer.name, f"{median(taken for taken, _, _ in peer.runs):.2f} s", f"{max(memory for _, memory, _ in peer.runs):.0f} MB",
                  f"{total['equal'] + total['differ'] + total['only_b']:,}", megabytes(peer.file),
                  f"{median(ratios):.1f} x seed ({listed(ratios, '.1f')})")
        bench.note(f"{peer.name}: {total['equal']:,} tiles with the seed's content, {total['differ']:,} with another, {total['only_a']:,} of the seed's are "
                   f"missing, {total['only_b']:,} are only there.")
    remove(peer.file)


def compared(bench, ours, theirs):
    """The counts of each zoom of `oar-tiles diff`, which decodes tiles whose bytes differ."""
    said = subprocess.run([bench.oar_tiles, "diff", ours, theirs, "--json"], capture_output=True, text=True)
    try:
        return json.loads(said.stdout)["zooms"]
    except (ValueError, KeyError):
        bench.note(f"{theirs} could not be compared: {said.stderr.strip()}")
        return []
