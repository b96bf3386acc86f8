"""The floor: plain SQL that draws a table's tiles, on as many connections as the program has workers, results thrown away. It shares nothing with the
program: if the program's own statements get slow, the floor does not."""

import queue
import subprocess
import threading
import time
from dataclasses import dataclass

from .bench import fail

# Half of the side of the Web Mercator square, in metres; and the settings of a layer that has no others.
HALF, EXTENT, BUFFER = 20037508.342789244, 4096, 64
# From this zoom on, tiles are drawn strip by strip, and each row is transformed once for all of these zooms.
FIRST_ZOOM_OF_STRIPS = 6
STRIPS_PER_WORKER = 4


@dataclass
class Table:
    """What is drawn: a table in EPSG:4326 or 3857, the geometry's column, and the properties, the first of which is the key."""

    name: str
    geometry: str
    properties: list
    srid: int = 4326

    @property
    def half_width(self):
        """Half of the width of the world, in the units of its coordinates."""
        return HALF if self.srid == 3857 else 180


def measure(bench, table):
    """Seconds, and the tiles that show something."""
    low, high = int(bench.low), int(bench.high)
    begun = time.monotonic()
    deep = max(low, FIRST_ZOOM_OF_STRIPS)
    work = queue.SimpleQueue()
    # The deep zooms take longest, so they come first.
    if high >= deep:
        for first, last in strips(bench, table, deep):
            work.put(statement(table, deep, high, first, last, deep))
    for zoom in range(min(high, deep - 1), low - 1, -1):
        work.put(statement(table, zoom, zoom, 0, (1 << zoom) - 1, zoom))
    drawn, failed = [], []

    def draw():
        command, env = bench.psql_command()
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as session:
            session.stdin.write("SET enable_hashagg = off; SET jit = off; SET work_mem = '64MB';\n")
            while True:
                try:
                    session.stdin.write(work.get_nowait() + ";\n")
                except queue.Empty:
                    break
                session.stdin.flush()
                told = session.stdout.readline()
                if not told:
                    failed.append(table.name)
                    break
                drawn.append(int(told.split("|")[0]))

    threads = [threading.Thread(target=draw) for _ in range(int(bench.workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        fail("the floor could not be measured (see above).")
    return time.monotonic() - begun, sum(drawn)


def strips(bench, table, zoom):
    """The first and last columns of strips with about the same number of rows each, by their western sides."""
    count = STRIPS_PER_WORKER * int(bench.workers)
    half = table.half_width
    column = f"floor((ST_XMin({table.geometry}) + {half}) / {2 * half} * {1 << zoom})"
    # Strips end where a part of the rows ends; none is empty.
    shares = ", ".join(f"{number / count}" for number in range(1, count))
    ends = bench.sql(f"SELECT DISTINCT unnest(percentile_disc(ARRAY[{shares}]) WITHIN GROUP (ORDER BY {column}))::int "
                     f'FROM "{table.name}" ORDER BY 1').split("\n")
    ends = [end for end in map(int, filter(None, ends)) if 0 <= end < (1 << zoom) - 1]
    firsts = [0] + [end + 1 for end in ends]
    return list(zip(firsts, ends + [(1 << zoom) - 1]))


def statement(table, low, high, first, last, zoom):
    """Draws the tiles of some zooms below the columns `first` to `last` of `zoom`: how many show something, and their bytes."""
    names = ", ".join(table.properties)
    half = table.half_width
    side = 2 * half / (1 << zoom)
    # A little more than the buffer of the shallowest zoom on both sides; the tiles decide.
    west, east = first * side - half - side / 32, (last + 1) * side - half + side / 32
    return f"""
WITH shapes AS MATERIALIZED (
    SELECT ST_Transform({table.geometry}, 3857) AS m, {names} FROM "{table.name}"
    WHERE {table.geometry} && ST_MakeEnvelope({west}, {-half}, {east}, {half}, {table.srid})
),
ranges AS (
    SELECT m, z, {names},
        greatest(floor((ST_XMin(m) + {HALF} - reach) / side)::int, {first} << (z - {zoom})) AS x0,
        least(floor((ST_XMax(m) + {HALF} + reach) / side)::int, (({last} + 1) << (z - {zoom})) - 1) AS x1,
        greatest(floor(({HALF} - ST_YMax(m) - reach) / side)::int, 0) AS y0,
        least(floor(({HALF} - ST_YMin(m) + reach) / side)::int, (1 << z) - 1) AS y1
    FROM shapes CROSS JOIN (
        SELECT z, {2 * HALF} / (1 << z) AS side, {2 * HALF * (BUFFER + 1) / EXTENT} / (1 << z) AS reach FROM generate_series({low}, {high}) AS z
    ) AS zooms
    OFFSET 0
),
drawn AS (
    SELECT z, x, y, ST_AsMVTGeom(m, ST_TileEnvelope(z, x, y), {EXTENT}, {BUFFER}, true) AS geom, {names}
    FROM ranges CROSS JOIN LATERAL generate_series(x0, x1) AS x CROSS JOIN LATERAL generate_series(y0, y1) AS y
    ORDER BY z, x, y, {table.properties[0]}
    OFFSET 0
)
SELECT count(*), sum(length(mvt)) FROM (
    SELECT ST_AsMVT(feature, 'floor', {EXTENT}, 'geom') AS mvt
    FROM drawn CROSS JOIN LATERAL (SELECT geom, {names}) AS feature WHERE drawn.geom IS NOT NULL GROUP BY z, x, y
    OFFSET 0
) AS tiles""".replace("\n", " ")
