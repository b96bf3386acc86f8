"""Users who walk over the map of Open Supply Hub, each with filters of their own: the application's way, a statement for each tile of one layer, beside
`oar-tiles serve`. The same walk, rows and cores; no CDN in front of either, as after an edit in the application's way. Then what a CDN keeps of it (walk_cdn.py)."""

import asyncio
import contextlib
import http.server
import itertools
import math
import multiprocessing
import queue
import random
import subprocess
import threading
import time
import urllib.parse

from . import open_supply_hub, walk_cdn
from .bench import fail
from .filters import percentiles
from .serve import ended, with_admin

WIDTH = 5000
USERS, PROCESSES = 50, 2
# Tiles of a view, and how many of them a browser asks for at a time.
COLUMNS, LINES, AT_A_TIME = 4, 3, 6
# Between two views of a user, in seconds.
PAUSES = (1, 4)
SECONDS, WARM_UP_SECONDS = 60, 20
# Views of a user in that time, by these pauses.
RECORDED_VIEWS = 21
# Connections of the application to the database: two of its machines with five workers each.
CONNECTIONS = 10
COUNTRIES = ["BD", "CN", "VN", "IN", "TR", "PT", "IT", "US", "BR", "PK"]
WORKERS = ["Less than 1000", "1001-5000", "5001-10000", "More than 10000"]

# In words: hexagons of an eighth of a tile's width around the tile; of each, at most 100 facilities that lie in it, counted by its edges in degrees.
GRID = """SELECT encode(ST_AsMVT(t, 'facilitygrid', 4096, 'geom'), 'hex') FROM (
    SELECT ST_AsMVTGeom(ST_Centroid(shape), box) AS geom, count, ST_XMin(d) AS xmin, ST_YMin(d) AS ymin, ST_XMax(d) AS xmax, ST_YMax(d) AS ymax
    FROM (SELECT ST_TileEnvelope({z}, {x}, {y}) AS box, 40075016.685578488 / (1 << {z}) / 8 AS w) AS tile
    CROSS JOIN LATERAL (SELECT ST_SetSRID(ST_MakePolygon(ST_MakeLine(ARRAY[ST_MakePoint(a, b), ST_MakePoint(a + w / 2, b + s / 2), ST_MakePoint(a + w / 2, b + 1.5 * s),
            ST_MakePoint(a, b + 2 * s), ST_MakePoint(a - w / 2, b + 1.5 * s), ST_MakePoint(a - w / 2, b + s / 2), ST_MakePoint(a, b)])), 3857) AS shape
        FROM generate_series(floor(ST_XMin(box) / w)::int - 1, ceil(ST_XMax(box) / w)::int) AS i,
            generate_series(floor(ST_YMin(box) / w / sqrt(3))::int - 1, ceil(ST_YMax(box) / w / sqrt(3))::int) AS j, (VALUES (0), (0.5)) AS lattice (half),
            LATERAL (SELECT (i + half) * w AS a, (j + half) * sqrt(3) * w AS b, w / sqrt(3) AS s) AS corner) AS hexagon
    CROSS JOIN LATERAL (SELECT ST_Transform(shape, 4326) AS d) AS degrees
    CROSS JOIN LATERAL (SELECT count(*) FROM (SELECT FROM api_facilityindex WHERE ST_Contains(d, location) AND {filter} LIMIT 100) AS r) AS counted
    WHERE count > 0 AND ST_XMax(d) - ST_XMin(d) < 180) AS t WHERE geom IS NOT NULL"""
# Facilities in the tile's box in degrees, a fifth wider, whose index row fulfils the filter.
FACILITIES = """SELECT encode(ST_AsMVT(t, 'facilities', 4096, 'geom'), 'hex') FROM (
    SELECT ST_AsMVTGeom(location, box, 4096, 1024, true) AS geom, id, name, address, {x} AS x, {y} AS y, {z} AS z
    FROM api_facility, (SELECT ST_Transform(ST_TileEnvelope({z}, {x}, {y}), 4326) AS box) AS tile
    WHERE ST_Within(location, ST_Expand(box, (ST_XMax(box) - ST_XMin(box)) * 0.2, (ST_YMax(box) - ST_YMin(box)) * 0.2))
        AND id IN (SELECT id FROM api_facilityindex WHERE {filter})) AS t WHERE geom IS NOT NULL"""


def measure(bench):
    open_supply_hub.fill(bench, WIDTH)
    places = [tuple(map(float, line.split("|"))) for line in bench.sql(
        "SELECT ST_X(location), ST_Y(location) FROM api_facility ORDER BY hashtext(id), id LIMIT 3000").splitlines()]
    if bench.options.walk:
        with application(bench) as url:
            walks(bench, "a statement for each tile", url, places)
    config = open_supply_hub.config(bench, "\n[run]\nrows_mb = 2000\n")
    bench.install_triggers("--config", config)
    done = subprocess.run([*bench.command("seed"), "--config", config], capture_output=True, text=True)
    if done.returncode:
        fail(done.stderr)
    if bench.options.walk:
        ours(bench, config, places)
    addresses = {address for user in range(USERS) for address in recorded(2000 + user, places)}
    walk_cdn.measure(bench, config, places, sorted(addresses))


def recorded(seed, places):
    """The addresses of the views of a user, without repeats: what the walk asks for in a minute."""
    for zoom, tiles, query in itertools.islice(views_of(seed, places), RECORDED_VIEWS):
        yield from ((zoom, f"/{layer_of(zoom)}/{zoom}/{x}/{y}.pbf", query) for x, y in tiles)


def ours(bench, config, places):
    command = [bench.oar_tiles, "serve", "--config", config, "--database-url", bench.url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
               "--trusted-proxy", "127.0.0.1", "--drain", "0s"]
    with with_admin(bench, command, "walk.log") as (_, url, _):
        walks(bench, "oar-tiles serve", url, places)


def walks(bench, what, url, places):
    """The walk, after a shorter one that warms up: times, and the database's time."""
    walked(url, places, WARM_UP_SECONDS, 1)
    before = active_seconds(bench)
    views, tiles, errors = walked(url, places, SECONDS, 2)
    busy = active_seconds(bench) - before
    if not views:
        fail(f"{what}: no view was complete in {SECONDS} s")
    for name, times in [("a tile", tiles), ("last tile of a view", views)]:
        p50, p99 = percentiles(times)
        bench.row(f"walk of {USERS} users, {what}, {name}", f"{p50:.0f} ms p50", zooms="", ratio=f"{p99:.0f} ms p99, {len(times):,} in {SECONDS} s")
    bench.row(f"walk of {USERS} users, {what}, database", f"{busy:.1f} s", zooms="", ratio=f"{busy / len(tiles) * 1000:.2f} ms a tile, {errors} errors")


def active_seconds(bench):
    # A session writes its figures when it rests for a second.
    time.sleep(3)
    return float(bench.sql("SELECT active_time FROM pg_stat_database WHERE datname = current_database()")) / 1000


def walked(url, places, seconds, seed):
    with multiprocessing.Pool(PROCESSES) as pool:
        found = pool.map(a_process, [(url, places, seconds, seed * 1000 + number * (USERS // PROCESSES)) for number in range(PROCESSES)])
    return sum((one[0] for one in found), []), sum((one[1] for one in found), []), sum(one[2] for one in found)


def a_process(arguments):
    url, places, seconds, first = arguments
    views, tiles, errors = [], [], [0]

    async def all_users():
        end = time.monotonic() + seconds
        await asyncio.gather(*(a_user(url, places, end, first + number, views, tiles, errors) for number in range(USERS // PROCESSES)))

    asyncio.run(all_users())
    return views, tiles, errors[0]


def a_filter(chance):
    """What somebody searches: parameters."""
    given = []
    if chance.random() < 0.25:
        return given
    for name in chance.sample(["countries", "sectors", "contributors", "lists", "number_of_workers", "q"], chance.randint(1, 2)):
        for _ in range(1 if name == "q" else chance.randint(1, 3)):
            value = {"countries": lambda: chance.choice(COUNTRIES), "sectors": lambda: chance.choice(["Apparel", "Textiles", f"Sector {chance.randint(4, 117)}"]),
                     "contributors": lambda: str(int(2500 ** chance.random())), "lists": lambda: str(int(7500 ** chance.random())),
                     "number_of_workers": lambda: chance.choice(WORKERS), "q": lambda: chance.choice(["denim", "mill", "knit", "unit 3", "dhaka"])}[name]()
            given.append((name, value))
    return sorted(set(given))


def views_of(seed, places):
    """Searches, zooms in to a place, clicks, searches again: zoom, tiles and query of each view, without end."""
    chance = random.Random(seed)
    while True:
        place, query = chance.choice(places), urllib.parse.urlencode(a_filter(chance))
        for zoom in [2, 4, 6, 9, 11, 12, 14]:
            yield zoom, a_view(zoom, place), query


async def a_user(url, places, end, seed, views, tiles, errors):
    pauses, host = random.Random(seed), urllib.parse.urlsplit(url)
    await asyncio.sleep(pauses.uniform(0, PAUSES[1]))
    for zoom, view, query in views_of(seed, places):
        if time.monotonic() >= end:
            return
        begun, wanted = time.monotonic(), queue.SimpleQueue()
        [wanted.put(tile) for tile in view]
        await asyncio.gather(*(asks(host, wanted, zoom, query, tiles, errors) for _ in range(AT_A_TIME)))
        views.append(time.monotonic() - begun)
        await asyncio.sleep(pauses.uniform(*PAUSES))


def a_view(zoom, place):
    side = 2**zoom
    x, y = (place[0] + 180) / 360 * side, (1 - math.asinh(math.tan(math.radians(place[1]))) / math.pi) / 2 * side
    west, north = int(x) - COLUMNS // 2, int(y) - LINES // 2
    return [(column % side, line) for column in range(west, west + min(COLUMNS, side)) for line in range(north, north + LINES) if 0 <= line < side]


def layer_of(zoom):
    return "facilitygrid" if zoom <= 11 else "facilities"


async def asks(host, wanted, zoom, query, tiles, errors):
    """One of a browser's connections: asks for tiles until none is left."""
    layer = layer_of(zoom)
    try:
        reader, writer = await asyncio.open_connection(host.hostname, host.port)
        while True:
            try:
                x, y = wanted.get_nowait()
            except queue.Empty:
                break
            begun = time.monotonic()
            writer.write(f"GET /tile/{layer}/1-1-a/{zoom}/{x}/{y}.pbf{query and '?' + query} HTTP/1.1\r\nHost: {host.netloc}\r\nAccept-Encoding: gzip\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = [line.split(":")[1] for line in head.split("\r\n") if line.startswith("content-length:")]
            await reader.readexactly(int(length[0]) if length else 0)
            if head.split(" ")[1] not in ("200", "204"):
                errors[0] += 1
                continue
            tiles.append(time.monotonic() - begun)
        writer.close()
    except OSError:
        errors[0] += 1


def condition(given):
    """The filter as the application's statement has it."""
    def quoted(value):
        return "'" + value.replace("'", "''") + "'"

    values = {}
    for name, value in given:
        values.setdefault(name, []).append(value)
    parts = ["true"]
    for name, all_of in values.items():
        array = "ARRAY[" + ", ".join(map(quoted, all_of)) + "]"
        column = {"contributors": "contributors_id && {}::int[]", "lists": "lists && {}::int[]", "sectors": "sector && {}::varchar[]",
                  "number_of_workers": "number_of_workers && {}::text[]", "countries": "country_code = ANY ({}::varchar[])"}
        if name == "q":
            parts.append(f"(upper(unaccent(name)) LIKE upper(unaccent({quoted('%' + all_of[0] + '%')})) OR id = {quoted(all_of[0])})")
        else:
            parts.append(column[name].format(array))
    return " AND ".join(parts)


@contextlib.contextmanager
def application(bench):
    """A server that answers each tile by one statement on one of its connections: the URL."""
    idle, processes = queue.SimpleQueue(), []
    command, env = bench.psql_command()
    for _ in range(CONNECTIONS):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        process.stdin.write("SET work_mem = '64MB';\n")
        processes.append(process)
        idle.put(process)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            path = urllib.parse.urlsplit(self.path)
            _, _, layer, _, z, x, y = path.path.removesuffix(".pbf").split("/")
            given = urllib.parse.parse_qsl(path.query)
            statement = {"facilities": FACILITIES, "facilitygrid": GRID}[layer].format(z=int(z), x=int(x), y=int(y), filter=condition(given))
            session = idle.get()
            session.stdin.write(" ".join(statement.split()) + ";\n")
            session.stdin.flush()
            body = bytes.fromhex(session.stdout.readline().strip())
            idle.put(session)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Threads(http.server.ThreadingHTTPServer):
        request_queue_size = 512
        daemon_threads = True

    with Threads(("127.0.0.1", 0), Handler) as server, contextlib.ExitStack() as stack:
        [stack.enter_context(ended(process)) for process in processes]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
