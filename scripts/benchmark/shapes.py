"""Polygons that fill many tiles: Natural Earth's countries and land, and the counties of the United States, from packages of npm, beside the floor,
tippecanoe, and freestiler. And many small shapes, generated: lines, buildings, and points that are stored as MultiPoints, with their reseeds."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import floor, towns
from .bench import fail, listed, median, megabytes, remove, tiles_in
from .peers import FREESTILER, has_freestiler
from .towns import SmallShapes

# The packages with their versions: TopoJSON of Natural Earth (public domain) and of the United States Census Bureau.
PACKAGES = ["world-atlas@2.0.2", "us-atlas@3.0.1"]


@dataclass
class ShapesCase:
    """A table of shapes and the zooms that it is drawn at."""

    name: str
    file: str
    layer: str
    zooms: str
    kind: str = "mbtiles"
    peer: bool = True
    # Plain SQL clips a large shape in each tile of its box, which takes many minutes.
    floor: bool = False
    workers: str = ""


CASES = [
    ShapesCase("countries", "world-atlas/countries-50m.json", "countries", "0-10"),
    ShapesCase("countries", "world-atlas/countries-50m.json", "countries", "0-14", kind="pmtiles", peer=False),
    ShapesCase("land", "world-atlas/land-10m.json", "land", "0-4", workers="1"),
    ShapesCase("counties", "us-atlas/counties-10m.json", "counties", "0-10", floor=True),
]

# Shapes around a position x, y in degrees, and the degrees of a metre there, across and up. The sides of a building are 8 to 50 m, those of a line
# 100 to 600 m.
LINE = "ST_MakeLine(ARRAY[ST_MakePoint(x, y), ST_MakePoint(x + a * across, y + b * up), ST_MakePoint(x + (a + b) * across, y - a * up), ST_MakePoint(x + (a + 2 * b) * across, y + a * up)])"
BUILDING = """ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(x, y), ST_MakePoint(x + a * across, y), ST_MakePoint(x + a * across, y + b / 2 * up),
    ST_MakePoint(x + a / 2 * across, y + b / 2 * up), ST_MakePoint(x + a / 2 * across, y + b * up), ST_MakePoint(x, y + b * up), ST_MakePoint(x, y)]))"""
GENERATED = {
    "lines": (20_000, "LineString", LINE, 100, 600),
    "buildings": (40_000, "Polygon", BUILDING, 8, 50),
    "multipoints": (20_000, "MultiPoint", "ST_Multi(ST_MakePoint(x, y))", 0, 0),
}
SMALL_ZOOMS = "10-14"


def measure(bench):
    """Each case: the floor, the seed and tippecanoe in turns."""
    for program in ["npm", "ogr2ogr"]:
        if not shutil.which(program):
            fail(f"--shapes needs {program} (Debian packages npm and gdal-bin).")
    bench.sql("CREATE EXTENSION IF NOT EXISTS postgis")
    measure_small(bench)
    folder = bench.file("shapes")
    subprocess.run(["npm", "install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error",
                    *PACKAGES], check=True, stdout=subprocess.DEVNULL)
    for case in CASES:
        source = f"{folder}/node_modules/{case.file}"
        load(bench, case, source)
        measure_case(bench, case, source)


def measure_small(bench):
    """Many small shapes: floor and seed in turns, and reseeds."""
    for name, (count, *shape) in GENERATED.items():
        generate(bench, name, count, *shape)
        towns.measure_table(bench, SmallShapes(name, count, SMALL_ZOOMS))


def generate(bench, name, count, kind, shape, least, most):
    """A table of shapes, evenly over a part of the world as large as Europe."""
    bench.sql(f"""DROP TABLE IF EXISTS "{name}";
        CREATE TABLE "{name}" (id int PRIMARY KEY, name text, geom geometry({kind}, 4326));
        SELECT setseed(0.5);
        INSERT INTO "{name}" SELECT id, '{name} ' || id, ST_SetSRID({shape}, 4326) FROM (
            SELECT id, x, y, a, b, 1 / 111320.0 AS up, 1 / (111320 * cos(radians(y))) AS across FROM (
                SELECT id, -10 + 60 * random() AS x, 35 + 35 * random() AS y, {least} + {most - least} * random() AS a, {least} + {most - least} * random() AS b
                FROM generate_series(1, {count}) AS id OFFSET 0
            ) AS placed OFFSET 0
        ) AS placed;
        CREATE INDEX ON "{name}" USING gist (geom);
        VACUUM ANALYZE "{name}";""")


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
    bench.config = bench.write("shapes.toml", towns.CONFIG.format(name=case.name))
    os.environ["OAR_TILES_CONFIG"] = bench.config
    bench.begin_case(int(bench.sql(f'SELECT count(*) FROM "{case.name}"')), case.zooms)
    workers = case.workers or bench.workers
    floors, seeds, peers = [], [], []
    for _ in range(bench.runs):
        remove(archive)
        if case.floor:
            floors.append(floor.measure(bench, floor.Table(case.name, "geom", ["id", "name"]))[0])
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
        ratio += f"; {median(one / least for one, least in zip(seconds, floors)):.2f} x floor"
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


def tippecanoe(bench, case, source, file):
    remove(file)
    features = bench.file("shapes.geojson")
    os.environ["TIPPECANOE_MAX_THREADS"] = bench.workers
    # Nothing dropped, no polygon left out or joined; a buffer of 4/256 of a tile is the 64/4096 of the seed.
    seconds, _ = bench.measured(["tippecanoe", "--quiet", "--force", "-o", file, "-l", case.name, "-Z", bench.low, "-z", bench.high,
                                 "--no-feature-limit", "--no-tile-size-limit", "--no-tiny-polygon-reduction", "--buffer=4", features])
    return seconds
