"""Many small shapes: the floor and the seed in turns, reseeds, and peers (with --peers). Footprints, parcels and roads are generated in towns."""

import os
import random
from dataclasses import dataclass

from . import floor, peers
from .bench import listed, median, megabytes, remove, tiles_in

CONFIG = '[[layer]]\nname = "{name}"\ntable = "{name}"\nproperties = ["name"]\n'

# Towns whose sizes follow a power law, in metres of EPSG:3857: each row's town, a place in it, and what forms it.
TOWN = """SELECT id, town, town_x + 40000 / (1 + town / 50.0) * (random_of(id * 3) + random_of(id * 5) - 1) AS x,
    town_y + 40000 / (1 + town / 50.0) * (random_of(id * 7) + random_of(id * 11) - 1) AS y,
    town_x, town_y, row_number() OVER (PARTITION BY town ORDER BY id) AS lot,
    random_of(id * 13) AS a, random_of(id * 17) AS b, 6.3 * random_of(id * 19) AS turn
    FROM generate_series(1, {count}) AS id CROSS JOIN LATERAL (SELECT floor(3000 ^ random_of(id * 23))::int8 AS town OFFSET 0) AS towns
        CROSS JOIN LATERAL (SELECT -1200000 + 6000000 * random_of(town) AS town_x, 4200000 + 4000000 * random_of(-town) AS town_y OFFSET 0) AS middles"""
# Turned squares, shapes of an L, and squares with a hole, of 8 to 38 m.
FOOTPRINT = """ST_Translate(ST_Rotate(CASE id % 4
    WHEN 0 THEN ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(0, 0), ST_MakePoint(w, 0), ST_MakePoint(w, h / 2), ST_MakePoint(w / 2, h / 2), ST_MakePoint(w / 2, h), ST_MakePoint(0, h), ST_MakePoint(0, 0)]))
    WHEN 1 THEN ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(0, 0), ST_MakePoint(w, 0), ST_MakePoint(w, h), ST_MakePoint(0, h), ST_MakePoint(0, 0)]),
        ARRAY[ST_MakeLine(ARRAY[ST_MakePoint(w / 3, h / 3), ST_MakePoint(w / 3, h / 2), ST_MakePoint(w / 2, h / 2), ST_MakePoint(w / 2, h / 3), ST_MakePoint(w / 3, h / 3)])])
    ELSE ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(0, 0), ST_MakePoint(w, 0), ST_MakePoint(w, h), ST_MakePoint(0, h), ST_MakePoint(0, 0)])) END, turn), x, y)"""
# Quadrangles of about 30 by 40 m, 100 in a row, which share their corners.
CORNER = """ST_MakePoint(town_x + 30 * ({column} + 0.6 * random_of(town * 1000003 + ({column}) * 7919 + ({row}) * 104729)),
    town_y + 40 * ({row} + 0.6 * random_of(town * 1000033 + ({column}) * 7907 + ({row}) * 104723)))"""
PARCEL = "ST_MakePolygon(ST_MakeLine(ARRAY[" + ", ".join(
    CORNER.format(column=f"lot % 100 + {column}", row=f"lot / 100 + {row}") for column, row in [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]) + "]))"
# 5 to 200 vertices, 44 in the mean, 30 m apart.
ROAD = """(SELECT ST_MakeLine(ARRAY(SELECT ST_MakePoint(x + sum(30 * cos(way)) OVER (ORDER BY k), y + sum(30 * sin(way)) OVER (ORDER BY k))
    FROM generate_series(1, 5 + floor(196 * a ^ 4)::int) AS k CROSS JOIN LATERAL (SELECT turn + 2 * random_of(id * 1000 + k / 4) + 0.3 * random_of(id * 1000 + k) AS way OFFSET 0) AS ways)))"""
TOWNS = {"footprints": ("Polygon", FOOTPRINT, "10-14"), "parcels": ("Polygon", PARCEL, "10-14"), "roads": ("LineString", ROAD, "8-14")}


@dataclass
class SmallShapes:
    """A table of many small shapes, and the zooms that it is drawn at."""

    name: str
    count: int
    zooms: str
    srid: int = 4326

    @property
    def in_towns(self):
        return self.name in TOWNS


def measure(bench):
    """With --buildings: as many rows of each kind."""
    bench.sql("CREATE EXTENSION IF NOT EXISTS postgis")
    for name, (kind, shape, zooms) in TOWNS.items():
        if bench.options.kinds and name not in bench.options.kinds:
            continue
        generate(bench, name, bench.options.buildings, kind, shape)
        measure_table(bench, SmallShapes(name, bench.options.buildings, zooms, 3857))


def generate(bench, name, count, kind, shape):
    """A table of shapes in towns."""
    bench.sql(f"""DROP TABLE IF EXISTS "{name}";
        CREATE OR REPLACE FUNCTION random_of(seed int8) RETURNS float8 IMMUTABLE PARALLEL SAFE LANGUAGE sql AS
            $$ SELECT (hashint8(seed)::int8 + 2147483648) / 4294967296.0 $$;
        CREATE TABLE "{name}" AS SELECT id::int, '{name} ' || id AS name, ST_SetSRID({shape}, 3857)::geometry({kind}, 3857) AS geom
        FROM (SELECT *, 8 + 30 * a AS w, 8 + 30 * b AS h FROM ({TOWN.format(count=count)}) AS placed OFFSET 0) AS sized;
        ALTER TABLE "{name}" ADD PRIMARY KEY (id); CREATE INDEX ON "{name}" USING gist (geom);
        VACUUM ANALYZE "{name}";""")


def measure_table(bench, shapes):
    name, count, zooms = shapes.name, shapes.count, shapes.zooms
    archive, before = bench.file("small.mbtiles"), bench.config
    bench.config = os.environ["OAR_TILES_CONFIG"] = bench.write("shapes.toml", CONFIG.format(name=name))
    bench.begin_case(count, zooms)
    floors, seeds = [], []
    bench.install_triggers()
    for _ in range(bench.runs):
        remove(archive)
        floors.append(floor.measure(bench, floor.Table(name, "geom", ["id", "name"], shapes.srid)))
        seeds.append(bench.timed("seed", "--zoom", zooms, "--output", archive))
    seconds, stored = [one for one, _ in seeds], tiles_in(archive)
    if stored != floors[-1][1]:
        bench.note(f"{name}: the floor drew {floors[-1][1]:,} tiles, seed {stored:,}. They have to be the same for the ratio to mean anything.")
    bench.row(f"{name}: floor", f"{median(least for least, _ in floors):.2f} s", tiles=f"{floors[-1][1]:,}")
    # The aim is 1.1 x the floor and half a second.
    over = [one - 1.1 * least for one, (least, _) in zip(seconds, floors)]
    bench.row(f"{name}: oar-tiles seed", f"{median(seconds):.2f} s", f"{max(told['peak_mb'] for _, told in seeds):.0f} MB", f"{stored:,}",
              megabytes(archive), f"{median(one / least for one, (least, _) in zip(seconds, floors)):.2f} x floor; 1.1 x floor and {median(over):.2f} s ({listed(over)})")
    chance = random.Random(5)
    step = "40, 30" if shapes.in_towns else "0.004, 0.003"
    for changed in [1, 1_000]:
        some = lambda: ",".join(str(key) for key in chance.sample(range(1, count + 1), changed))
        reseed(bench, name, archive, f"{changed:,} moved", lambda: f'UPDATE "{name}" SET geom = ST_Translate(geom, {step}) WHERE id IN ({some()})')
    if bench.options.peers:
        peers.beside(bench, name, "geom", name, ["name"])
    if shapes.in_towns:
        # The neighbours of a row, moved by one statement.
        district = f'SELECT id FROM "{name}" ORDER BY geom <-> (SELECT geom FROM "{name}" WHERE id = {chance.randint(1, count)}) LIMIT 10000'
        reseed(bench, name, archive, "a district of 10,000", lambda: f'UPDATE "{name}" SET geom = ST_Translate(geom, {step}) WHERE id IN ({district})')
    bench.config = os.environ["OAR_TILES_CONFIG"] = before


def reseed(bench, name, archive, title, statement):
    """A row of the table for reseeds that follow a statement each."""
    reseeds = []
    for _ in range(max(3, bench.runs)):
        bench.sql(statement())
        reseeds.append(bench.timed("reseed", "--output", archive))
    bench.row(f"{name}: reseed, {title}", f"{median(one for one, _ in reseeds) * 1e3:.0f} ms",
              tiles=f"{median(told['dirty'] for _, told in reseeds):,.0f}", ratio=f"at most {max(one for one, _ in reseeds) * 1e3:.0f} ms")
