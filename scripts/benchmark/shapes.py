"""Polygons that fill many tiles: Natural Earth's countries and land, and the counties of the United States, from packages of npm, beside the floor,
tippecanoe, and freestiler."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import seed
from .bench import fail, listed, median, megabytes, remove, tiles_in

# The packages with their versions: TopoJSON of Natural Earth (public domain) and of the United States Census Bureau.
PACKAGES = ["world-atlas@2.0.2", "us-atlas@3.0.1"]
CONFIG = '[[layer]]\nname = "{name}"\ntable = "{name}"\nproperties = {properties}\n'


@dataclass
class ShapesCase:
    """A table of shapes and the zooms that it is drawn at."""

    name: str
    file: str
    layer: str
    zooms: str
    kind: str = "mbtiles"
    peer: bool = True
    workers: str = ""


# freestiler (PyPI) draws the features of a GeoDataFrame: file of features, archive, layer, zooms.
FREESTILER = """
import sys, geopandas, freestiler
frame = geopandas.read_file(sys.argv[1]).set_crs(4326, allow_override=True)
freestiler.freestile(frame, sys.argv[2], layer_name=sys.argv[3], min_zoom=int(sys.argv[4]), max_zoom=int(sys.argv[5]))
"""

CASES = [
    ShapesCase("countries", "world-atlas/countries-50m.json", "countries", "0-10"),
    ShapesCase("countries", "world-atlas/countries-50m.json", "countries", "0-14", kind="pmtiles", peer=False),
    ShapesCase("land", "world-atlas/land-10m.json", "land", "0-4", workers="1"),
    ShapesCase("counties", "us-atlas/counties-10m.json", "counties", "0-10"),
]


def measure(bench):
    """Each case: the floor, the seed and tippecanoe in turns."""
    for program in ["npm", "ogr2ogr"]:
        if not shutil.which(program):
            fail(f"--shapes needs {program} (Debian packages npm and gdal-bin).")
    folder = bench.file("shapes")
    subprocess.run(["npm", "install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error",
                    *PACKAGES], check=True, stdout=subprocess.DEVNULL)
    bench.sql("CREATE EXTENSION IF NOT EXISTS postgis")
    for case in CASES:
        source = f"{folder}/node_modules/{case.file}"
        load(bench, case, source)
        measure_case(bench, case, source)


def load(bench, case, source):
    """The features of a file, each with a number and, where it has one, a name."""
    features = bench.file("shapes.geojson")
    remove(features)
    subprocess.run(["ogr2ogr", "-f", "GeoJSON", "-lco", "RFC7946=NO", features, source, case.layer], check=True, stderr=subprocess.DEVNULL)
    told = [(feature["properties"].get("name"), json.dumps(feature["geometry"])) for feature in json.loads(Path(features).read_text())["features"]]
    lines = "".join(f"{number}\t{name or ''}\t{geometry}\n" for number, (name, geometry) in enumerate(told, 1))
    bench.sql(f'DROP TABLE IF EXISTS "{case.name}", read; CREATE TABLE read (id int PRIMARY KEY, name text, shape text);')
    bench.psql("-c", "COPY read FROM STDIN", input=lines)
    bench.sql(f"""CREATE TABLE "{case.name}" AS SELECT id, name, ST_SetSRID(ST_GeomFromGeoJSON(shape), 4326) AS geom FROM read;
        ALTER TABLE "{case.name}" ADD PRIMARY KEY (id); CREATE INDEX ON "{case.name}" USING gist (geom); DROP TABLE read;
        VACUUM ANALYZE "{case.name}";""")


def measure_case(bench, case, source):
    archive, other = bench.file(f"shapes.{case.kind}"), bench.file("tippecanoe.mbtiles")
    config = bench.config
    bench.config = bench.write("shapes.toml", CONFIG.format(name=case.name, properties='["name"]'))
    os.environ["OAR_TILES_CONFIG"] = bench.config
    bench.begin_case(int(bench.sql(f'SELECT count(*) FROM "{case.name}"')), case.zooms)
    workers = case.workers or bench.workers
    floors, seeds, peers = [], [], []
    for _ in range(bench.runs):
        remove(archive)
        if case.peer:
            told = seed.floor(bench)
            floors.append(told["plan_seconds"] + told["render_seconds"])
        seeds.append(bench.timed_with(["--workers", workers], "seed", "--zoom", case.zooms, "--output", archive))
        if case.peer and shutil.which("tippecanoe"):
            peers.append(tippecanoe(bench, case, source, other))
    report = seeds[-1][1]
    seconds = [one for one, _ in seeds]
    written, planned = report["written"], report["manifest"]["planned"]
    if floors:
        bench.row(f"{case.name}: floor", f"{median(floors):.2f} s")
    ratio = f"{planned / written:.2f} tiles planned for one stored"
    if floors:
        ratio += f"; {median(one / floor for one, floor in zip(seconds, floors)):.2f} x floor"
    bench.row(f"{case.name}: oar-tiles seed, {workers} workers, {case.kind}", f"{median(seconds):.2f} s", f"{max(told['peak_mb'] for _, told in seeds):.0f} MB",
              f"{written:,}", megabytes(archive), ratio)
    if peers:
        ratios = [peer / one for peer, one in zip(peers, seconds)]
        bench.row(f"{case.name}: tippecanoe", f"{median(peers):.2f} s", "", f"{tiles_in(other):,}", megabytes(other),
                  f"{median(ratios):.1f} x seed ({listed(ratios, '.1f')})")
    if case.peer and has_freestiler():
        tiles = bench.file("freestiler.pmtiles")
        remove(tiles)
        limit = bench.options.peer_limit
        taken, _ = bench.measured(["python3", "-c", FREESTILER, bench.file("shapes.geojson"), tiles, case.name, bench.low, bench.high], limit=limit)
        if taken is None:
            bench.row(f"{case.name}: freestiler, once", f"stopped after {limit} s")
        else:
            bench.row(f"{case.name}: freestiler, once", f"{taken:.2f} s", "", "", megabytes(tiles), f"{taken / median(seconds):.1f} x seed")
    bench.config = os.environ["OAR_TILES_CONFIG"] = config


def has_freestiler():
    """Whether the python3 on the PATH has freestiler, and geopandas, which reads its features."""
    return subprocess.run(["python3", "-c", "import freestiler, geopandas"], stderr=subprocess.DEVNULL).returncode == 0


def tippecanoe(bench, case, source, file):
    remove(file)
    features = bench.file("shapes.geojson")
    os.environ["TIPPECANOE_MAX_THREADS"] = bench.workers
    # Nothing dropped, no polygon left out or joined; a buffer of 4/256 of a tile is the 64/4096 of the seed.
    seconds, _ = bench.measured(["tippecanoe", "--quiet", "--force", "-o", file, "-l", case.name, "-Z", bench.low, "-z", bench.high,
                                 "--no-feature-limit", "--no-tile-size-limit", "--no-tiny-polygon-reduction", "--buffer=4", features])
    return seconds
