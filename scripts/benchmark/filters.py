"""Filtered live tiles of rows in the registry's shape: hexagons at zooms 1 to 11, points from 12, requests that choose by facets and by SQL. The
server runs on one core, the database and the clients on the others."""

import contextlib
import http.client
import json
import math
import multiprocessing
import random
import threading
import time
import urllib.parse
import urllib.request

from . import filters_cdn
from .bench import fail, median
from .serve import Server, with_admin

CLIENTS, PROCESSES = 32, 4
# One map view after another: tiles of these zooms for each filter.
VIEW_ZOOMS, TILES_PER_FILTER = [2, 3, 5, 8], 24
SINGLE_FILTERS, SINGLE_TILES = 60, 14
EDITS = 20
USERS, USER_TILES, USER_SECONDS = 200, 30, 20
DEBOUNCE = "0.5s"
MAX_SETS = 1000
# Power laws over the values of each array: the low numbers are the most frequent.
TABLE = """
DROP TABLE IF EXISTS index_rows;
CREATE TABLE index_rows AS SELECT id, name, address, country_code, location,
    ARRAY(SELECT DISTINCT 's' || floor(power(117, chance(id, 10 + n)))::int FROM generate_series(1, 1 + count_of(id, 1)) AS n)::varchar(50)[] AS sector,
    ARRAY(SELECT DISTINCT floor(power(30000, chance(id, 20 + n)))::int FROM generate_series(1, 1 + count_of(id, 2)) AS n) AS lists,
    ARRAY(SELECT DISTINCT floor(power(10000, chance(id, 30 + n)))::int FROM generate_series(1, 1 + count_of(id, 3)) AS n) AS contributors_id,
    ARRAY['c' || floor(4 * power(chance(id, 4), 2))::int] AS number_of_workers,
    count_of(id, 5) = 0 AS is_closed
    FROM api_facility;
ALTER TABLE index_rows ADD PRIMARY KEY (id);
CREATE INDEX ON index_rows USING gist (location);
CREATE INDEX ON index_rows (country_code);
CREATE INDEX ON index_rows USING gin (lists, contributors_id)"""
CHANCE = """
CREATE OR REPLACE FUNCTION chance(text, int) RETURNS float8 IMMUTABLE LANGUAGE sql AS $$ SELECT (hashtextextended($1, $2) & 1048575) / 1048576.0 $$;
CREATE OR REPLACE FUNCTION count_of(text, int) RETURNS int IMMUTABLE LANGUAGE sql AS $$ SELECT floor(3 * chance($1, $2))::int $$"""
FACETS = {"countries": ("text[]", "country_code"), "sectors": ("text[]", "sector"), "lists": ("integer[]", "lists"),
          "contributors": ("integer[]", "contributors_id"), "workers": ("text[]", "number_of_workers")}


POINT_ZOOMS, POINT_COUNTRIES = range(2, 6), ["BD", "CN", "IN"]
POINTS = """
[serve]
live = true
[run]
rows_mb = 2000
[[tileset.parameter]]
name = "countries"
type = "text[]"
facet = { facilities = "country_code" }
[[layer]]
name = "facilities"
table = "index_rows"
geometry = "location"
key = ["id"]
zoom = "2-14"
facets = ["country_code"]
properties = ["id", "name"]
"""


def config():
    names = ", ".join(f'"{column}"' for _, column in FACETS.values())
    layers = f"""
[changes]
debounce = "{DEBOUNCE}"
[serve]
live = true
parameter_keys = 100000
[run]
rows_mb = 2000
[[layer]]
name = "facilitygrid"
table = "index_rows"
geometry = "location"
key = ["id"]
zoom = "1-11"
facets = [{names}]
[layer.aggregate]
cell = "hexagon"
size = "1/8"
draw = "center"
having = "!xmin! >= -180 AND !xmax! <= 180"
properties = {{ count = "least(count(*), 100)", xmin = "!xmin!", ymin = "!ymin!", xmax = "!xmax!", ymax = "!ymax!" }}
[[layer]]
name = "facilities"
table = "index_rows"
geometry = "location"
key = ["id"]
zoom = "12-22"
buffer = 1024
facets = [{names}]
properties = ["id", "name", "address"]
"""
    parameters = [f"""
[[tileset.parameter]]
name = "{name}"
type = "{kind}"
facet = {{ facilitygrid = "{column}", facilities = "{column}" }}
""" for name, (kind, column) in FACETS.items()]
    text = """
[[tileset.parameter]]
name = "q"
type = "text"
where = { facilitygrid = "strpos(name, !q!) > 0", facilities = "strpos(name, !q!) > 0" }
"""
    return "".join(parameters) + text + layers


def measure(bench):
    bench.sql(CHANCE)
    bench.sql(TABLE)
    bench.sql("VACUUM ANALYZE index_rows")
    settings, target = bench.write("filters.toml", config()), bench.file("filters.mbtiles")
    bench.install_triggers("--config", settings)
    # The other zooms are rendered on request, and all filtered tiles.
    bench.timed("seed", "--config", settings, "--zoom", "1", "--output", target)
    places = [tuple(map(float, line.split("|"))) for line in bench.sql(
        "SELECT ST_X(location), ST_Y(location) FROM index_rows ORDER BY hashtext(id), id LIMIT 3000").splitlines()]
    with serving(bench, target, settings) as server:
        keeps_rows(server, places)
        rows = server.memory()
        one_client(bench, server, places, "facets", facets)
        one_client(bench, server, places, "text", text)
        many_clients(bench, server, places)
        many_users(bench, server, places)
        edits(bench, server)
        keeps_sets(server, places)
        bench.row("filters, memory", "", f"{server.memory():.0f} MB", ratio=f"{rows:.0f} MB with rows alone; {server.status()}")
    bench.timed("seed", "--config", settings, "--zoom", "1-12", "--output", target, "--force")
    filters_cdn.measure(bench, settings, target, places)
    plain_points(bench, places)


def plain_points(bench, places):
    """Large tiles of points: those of a filter beside those of a layer that has no other rows, which are only encoded and packed."""
    took = {True: 0.0, False: 0.0}
    for country in POINT_COUNTRIES:
        tiles = sorted({path(zoom, place) for zoom in POINT_ZOOMS for place in places})
        for is_filtered in (True, False):
            where = "" if is_filtered else f"where = \"country_code = '{country}'\"\n"
            settings, target = bench.write("points.toml", POINTS + where), bench.file("points.mbtiles")
            bench.install_triggers("--config", settings)
            bench.timed("seed", "--config", settings, "--zoom", "14", "--bbox", "0,0,1,1", "--output", target, "--force")
            with serving(bench, target, settings) as server:
                client, chance, end = Client(server.url), random.Random(2), time.monotonic() + 120
                while not server.status()["tiles"] and time.monotonic() < end:
                    client.asks(path(13, chance.choice(places)), f"v={chance.random()}")
                query = f"countries={country}" if is_filtered else ""
                client.asks("/12/0/0.pbf", query)
                took[is_filtered] += sum(client.asks(tile, query) for tile in tiles)
    bench.row("filters, points at zooms 2 to 5", f"{took[True]:.2f} s", ratio=f"{took[True] / took[False]:.2f} x the same points without a filter, {took[False]:.2f} s")


class Filtered(Server):
    """A server with its admin listener."""

    def __init__(self, process, url, admin):
        super().__init__(process, url, "{}.pbf".format)
        self.admin = admin

    def status(self):
        with urllib.request.urlopen(self.admin + "/status.json") as answer:
            return json.load(answer)["live_rows"]


@contextlib.contextmanager
def serving(bench, target, settings):
    command = ["taskset", "-c", "0", bench.oar_tiles, "serve", target, "--config", settings, "--database-url", bench.url, "--listen", "127.0.0.1:0",
               "--admin", "127.0.0.1:0", "--trusted-proxy", "127.0.0.1", "--drain", "0s"]
    with with_admin(bench, command, "filters.log") as (process, url, admin):
        yield Filtered(process, url, admin)


def path(zoom, place):
    side = 2**zoom
    x, y = (place[0] + 180) / 360 * side, (1 - math.asinh(math.tan(math.radians(place[1]))) / math.pi) / 2 * side
    return f"/{zoom}/{min(int(x), side - 1)}/{min(int(y), side - 1)}.pbf"


def facets(chance):
    """A filter of one to five facets, with lists of up to 20 values."""
    given = []
    for name in chance.sample(sorted(FACETS), chance.randint(1, len(FACETS))):
        most = {"countries": None, "sectors": 117, "lists": 30000, "contributors": 10000, "workers": 4}[name]
        for _ in range(min(chance.randint(1, 20), most or 20)):
            number = int((most or 1) ** chance.random())
            value = {"countries": lambda: chance.choice(["BD", "CN", "VN", "IN", "TR", "PT", "IT", "US", "BR", "PK"]),
                     "sectors": lambda: f"s{number}", "workers": lambda: f"c{number % 4}"}.get(name, lambda: str(number))()
            given.append((name, value))
    return urllib.parse.urlencode(sorted(set(given)))


def text(chance):
    return urllib.parse.urlencode({"q": str(chance.randint(1000, 99999))})


class Client:
    def __init__(self, url):
        self.connection = http.client.HTTPConnection(url.removeprefix("http://").rstrip("/"))

    def asks(self, path, query):
        """Seconds until the answer."""
        begun = time.monotonic()
        # A query that is empty would be another address, which caches may not keep.
        self.connection.request("GET", path + (query and f"?{query}"), headers={"Accept-Encoding": "gzip", "Host": "127.0.0.1"})
        answer = self.connection.getresponse()
        self.body, self.headers = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
        if answer.status not in (200, 204):
            raise RuntimeError(f"{path}?{query}: {answer.status}")
        return time.monotonic() - begun

    def shows(self, path, query):
        """True if the tile is not empty."""
        self.asks(path, query)
        return len(self.body) > 0


def keeps_rows(server, places):
    """Waits until cells are counted from rows, and points drawn from them."""
    client, chance, end = Client(server.url), random.Random(1), time.monotonic() + 180
    while time.monotonic() < end:
        for _ in range(60):
            client.asks(path(chance.choice([9, 10, 11, 13, 14]), chance.choice(places)), f"v={chance.random()}")
        status = server.status()
        if status["counted_tiles"] and status["tiles"]:
            return
    fail(f"the server keeps no rows: {server.status()}")


def percentiles(seconds):
    ordered = sorted(seconds)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 for share in (0.5, 0.99)]


def one_client(bench, server, places, what, a_filter):
    chance, client = random.Random(7), Client(server.url)
    first, further = [], []
    for _ in range(SINGLE_FILTERS):
        query = a_filter(chance)
        for number in range(SINGLE_TILES):
            took = client.asks(path(chance.randint(1, 14), chance.choice(places)), query)
            (further if number else first).append(took)
    for name, seconds in [("first tile", first), ("further tiles", further)]:
        p50, p99 = percentiles(seconds)
        bench.row(f"filters by {what}, one client, {name}", f"{p50:.1f} ms p50", ratio=f"{p99:.1f} ms p99, {max(seconds) * 1000:.0f} at most")


def a_process(arguments):
    url, places, seed, threads, seconds = arguments
    took, errors = [], []

    def walks(number):
        chance, client, end = random.Random(seed * 1000 + number), Client(url), time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                query = facets(chance)
                for _ in range(TILES_PER_FILTER):
                    took.append(client.asks(path(chance.choice(VIEW_ZOOMS), chance.choice(places)), query))
        except Exception as error:  # said below
            errors.append(str(error))

    all_threads = [threading.Thread(target=walks, args=[number]) for number in range(threads)]
    [thread.start() for thread in all_threads]
    [thread.join() for thread in all_threads]
    return took, errors


def keeps_sets(server, places):
    """Asks for filters until the server keeps as many sets of rows as it may."""
    chance, client = random.Random(9), Client(server.url)
    for _ in range(2 * MAX_SETS):
        if server.status()["sets"] == MAX_SETS:
            return
        query = facets(chance)
        for _ in range(3):
            client.asks(path(chance.randint(1, 14), chance.choice(places)), query)


def many_clients(bench, server, places):
    seconds = bench.options.serve_seconds
    with multiprocessing.Pool(PROCESSES) as pool:
        found = pool.map(a_process, [(server.url, places, number, CLIENTS // PROCESSES, seconds) for number in range(PROCESSES)])
    took, errors = sum((took for took, _ in found), []), sum((errors for _, errors in found), [])
    p50, p99 = percentiles(took)
    bench.row(f"filters by facets, {CLIENTS} clients with filters of their own", f"{p50:.1f} ms p50",
              ratio=f"{len(took) / seconds:.0f} tiles a second, {p99:.0f} ms p99, {len(errors)} errors")


def a_users_share(arguments):
    """Some users, each with a filter of its own, who ask for their tiles at an even pace."""
    url, places, first, users = arguments
    took, errors = [], []

    def walks(number):
        chance, client = random.Random(50_000 + number), Client(url)
        query, begun = facets(chance), time.monotonic() + chance.random() * USER_SECONDS / USER_TILES
        for tile in range(USER_TILES):
            time.sleep(max(0, begun + tile * USER_SECONDS / USER_TILES - time.monotonic()))
            try:
                took.append(client.asks(path(chance.randint(1, 14), chance.choice(places)), query))
            except Exception as error:  # said below
                errors.append(str(error))

    all_threads = [threading.Thread(target=walks, args=[number]) for number in range(first, first + users)]
    [thread.start() for thread in all_threads]
    [thread.join() for thread in all_threads]
    return took, errors


def many_users(bench, server, places):
    share = USERS // PROCESSES
    with multiprocessing.Pool(PROCESSES) as pool:
        found = pool.map(a_users_share, [(server.url, places, number * share, share) for number in range(PROCESSES)])
    took, errors = sum((took for took, _ in found), []), sum((errors for _, errors in found), [])
    p50, p99 = percentiles(took)
    bench.row(f"filters by facets, {USERS} users, each {USER_TILES} tiles in {USER_SECONDS} s", f"{p50:.1f} ms p50",
              ratio=f"{p99:.0f} ms p99, {max(took) * 1000:.0f} at most, {len(errors)} errors")


def edits(bench, server):
    """How long after a commit the first answer shows it: a facility comes to a list that nobody has."""
    client, took = Client(server.url), []
    for number in range(EDITS):
        wanted = 200000 + number
        row = f"(SELECT id FROM index_rows ORDER BY id OFFSET {number * 1000} LIMIT 1)"
        tile = path(5, tuple(map(float, bench.sql(f"SELECT ST_X(location), ST_Y(location) FROM index_rows WHERE id = {row}").split("|"))))
        client.asks(tile, f"lists={wanted}")
        bench.sql(f"UPDATE index_rows SET lists = '{{{wanted}}}' WHERE id = {row}")
        begun = time.monotonic()
        while not client.shows(tile, f"lists={wanted}"):
            if time.monotonic() - begun > 30:
                fail("an edit is not shown")
            time.sleep(0.01)
        took.append(time.monotonic() - begun)
    bench.row("filters, commit to answer", f"{median(took):.2f} s", ratio=f"{max(took):.2f} s at most; debounce {DEBOUNCE}")
