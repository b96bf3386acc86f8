"""`oar-tiles serve` beside martin, from the same MBTiles file and the same table: the server on one core, the client on another."""

import bisect
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from . import watch
from .bench import fail, median, tiles_in
from .watch import DEBOUNCE

CONNECTIONS = 64
# The size of the hot tile, packed.
HOT_BYTES = 3_400
# The size of the hot live tile, packed as `seed` packs it.
HOT_LIVE_BYTES = 10_000
# How many tiles are asked for that are known to be empty.
EMPTY_TILES = 100_000
# The most tiles among which Zipf's law chooses, and how often it does before the list begins again.
ZIPF_TILES = 100_000
ZIPF_REQUESTS = 1_000_000
EDITS_PER_SECOND = 100
GZIP = {"Accept-Encoding": "gzip"}
# The lists of paths are read by each thread of wrk; there is one. `delay` keeps each connection below a rate.
SCRIPT = """\
local paths, at, pause = {{}}, 0, {pause}
for line in io.lines("{list}") do paths[#paths + 1] = line end
function request()
  at = at % #paths + 1
  return wrk.format("GET", paths[at])
end
function delay() return pause end
"""


def measure(bench):
    if shutil.which("wrk") is None:
        fail("wrk is not installed (Debian: wrk)")
    if os.cpu_count() < 2:
        bench.note("serve: server and client share one core, so its figures say little.")
    archive = bench.file("serve.mbtiles")
    bench.timed("seed", "--zoom", bench.zooms, "--output", archive)
    tiles = Tiles(archive)
    bench.note(tiles.described())
    servers = [("oar-tiles", lambda: oar_tiles(bench, archive))]
    if bench.options.before:
        servers.append(("before", lambda: oar_tiles(bench, archive, program=bench.options.before)))
    if not shutil.which("martin"):
        bench.note("martin is not on the PATH: serve is measured without it.")
    elif serves_archives(bench, archive):
        servers.append(("martin", lambda: martin(bench, archive)))
    else:
        bench.note("martin does not start from an archive (built without its feature mbtiles?): only live tiles are measured beside it.")
    hot = path_of(tiles.hot)
    compared(bench, servers, "hot tile, gzip", lambda server: load(bench, server, [hot], GZIP))
    compared(bench, servers, "hot tile, no gzip", lambda server: load(bench, server, [hot], {}))
    compared(bench, servers, "304", lambda server: load(bench, server, [hot], {**GZIP, "If-None-Match": etag(server, hot)}))
    empty = tiles.empty()
    compared(bench, servers, f"{len(empty):,} tiles known to be empty", lambda server: load(bench, server, empty, GZIP))
    sequence = tiles.by_zipf()
    compared(bench, servers, f"{tiles.chosen:,} tiles by Zipf's law, cold start", lambda server: load(bench, server, sequence, GZIP))
    half(bench, archive, sequence)
    live(bench, tiles)
    beside_edits(bench, archive, sequence)
    memory(bench, archive, tiles)


class Tiles:
    """The tiles of an archive, as a client names them."""

    def __init__(self, archive):
        with sqlite3.connect(f"file:{archive}?mode=ro", uri=True) as tiles:
            rows = tiles.execute("SELECT zoom_level, tile_column, (1 << zoom_level) - 1 - tile_row, length(tile_data) FROM tiles").fetchall()
            self.hot = nearest(rows, HOT_BYTES)
            z, x, y = self.hot
            packed = tiles.execute("SELECT tile_data FROM tiles WHERE (zoom_level, tile_column, tile_row) = (?, ?, ?)",
                                   (z, x, 2**z - 1 - y)).fetchone()[0]
        self.packed, self.raw = len(packed), len(zlib.decompress(packed, 31))
        self.all = [row[:3] for row in rows]
        self.highest = max(z for z, _, _ in self.all)
        above = [row for row in rows if row[0] < self.highest]
        self.hot_live = nearest(above, HOT_LIVE_BYTES)
        # The zooms that people look at most where tiles are rendered on request.
        self.above = [row[:3] for row in above if row[0] >= self.highest - 4]
        self.chosen = min(ZIPF_TILES, len(self.all))

    def described(self):
        return f"serve: the hot tile has {self.packed:,} bytes packed and {self.raw:,} unpacked; {CONNECTIONS} connections with keep-alive."

    def by_zipf(self):
        """Paths, of which the n-th most frequent is asked for in proportion to 1/n."""
        chance = random.Random(1)
        chosen = chance.sample(self.all, self.chosen)
        sums = list(itertools.accumulate(1 / rank for rank in range(1, len(chosen) + 1)))
        return [path_of(chosen[bisect.bisect_left(sums, chance.random() * sums[-1])]) for _ in range(ZIPF_REQUESTS)]

    def empty(self):
        """Paths of tiles of the highest zoom that the archive does not hold, all over the world."""
        chance, stored, side = random.Random(4), set(self.all), 2**self.highest
        random_tiles = ((self.highest, chance.randrange(side), chance.randrange(side)) for _ in itertools.count())
        return [path_of(tile) for tile in itertools.islice((tile for tile in random_tiles if tile not in stored), EMPTY_TILES)]


def nearest(rows, size):
    """The tile whose size, the last column, is nearest to `size`."""
    return min(rows, key=lambda row: abs(row[3] - size))[:3]


def path_of(tile):
    return "/{}/{}/{}".format(*tile)


class Server:
    """A running server. `paths` says how it names a tile."""

    def __init__(self, process, url, paths):
        self.process, self.url, self.paths = process, url, paths

    def memory(self):
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


@contextlib.contextmanager
def ended(process):
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def oar_tiles(bench, archive, *more, program=None):
    # All connections come from one address here.
    command = ["taskset", "-c", "0", program or bench.oar_tiles, "serve", archive, "--listen", "127.0.0.1:0", "--trusted-proxy", "127.0.0.1",
               "--drain", "0s", *more]
    log = open(bench.file("serve.log"), "w")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
    with ended(process):
        said = re.search(r" at (http://[0-9.:]+)/", process.stdout.readline())
        if said is None:
            fail(f"oar-tiles serve does not start: {Path(log.name).read_text()[-2000:]}")
        yield Server(process, said[1], "{}.pbf".format)


@contextlib.contextmanager
def with_admin(bench, command, log_name):
    """Starts a server with an admin listener: its process, and the URLs of both listeners without a slash at their ends."""
    log = open(bench.file(log_name), "w")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
    with ended(process):
        said = [re.search(r"(http://[0-9.:]+)/", process.stdout.readline()) for _ in range(2)]
        if None in said:
            fail(f"oar-tiles serve does not start: {Path(log.name).read_text()[-2000:]}")
        yield process, said[0][1], said[1][1]


@contextlib.contextmanager
def martin(bench, archive, *more):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = "127.0.0.1:{}".format(free.getsockname()[1])
    source = more[0] if more else Path(archive).stem
    command = ["taskset", "-c", "0", "martin", "--listen-addresses", address, "--workers", "1", bench.url if more else archive]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with ended(process):
        end = time.time() + 30
        while not answers(f"http://{address}/health"):
            if time.time() > end or process.poll() is not None:
                fail("martin does not start")
            time.sleep(0.1)
        yield Server(process, f"http://{address}", lambda path: f"/{source}{path}")


def serves_archives(bench, archive):
    try:
        with martin(bench, archive):
            return True
    except SystemExit:
        return False


def answers(url):
    try:
        with urllib.request.urlopen(url) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def etag(server, path):
    request = urllib.request.Request(server.url + server.paths(path), headers=GZIP)
    with urllib.request.urlopen(request) as answer:
        return answer.headers["ETag"]


def sent_bytes(server, path):
    request = urllib.request.Request(server.url + server.paths(path), headers=GZIP)
    with urllib.request.urlopen(request) as answer:
        return len(answer.read())


class Load:
    """What wrk measured."""

    def __init__(self, text):
        self.rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
        self.p99 = milliseconds(re.search(r"99%\s+([\d.]+)(us|ms|s)", text))
        refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
        broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
        self.errors = sum(int(count) for found in (refused, broken) if found for count in found.groups())


def milliseconds(found):
    return float(found[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[found[2]]


def load(bench, server, paths, headers, rate=None):
    """Asks for the paths, one after the other and over again: as fast as it goes, or about so many a second."""
    command = ["taskset", "-c", "1" if os.cpu_count() > 1 else "0", "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{bench.options.serve_seconds}s",
               "--latency", *itertools.chain(*(("-H", f"{name}: {value}") for name, value in headers.items()))]
    if len(paths) == 1 and not rate:
        # A script costs wrk more per request than the request itself.
        command.append(server.url + server.paths(paths[0]))
    else:
        listed = bench.write("paths", "".join(f"{server.paths(path)}\n" for path in paths))
        pause = round(CONNECTIONS / rate * 1000) if rate else 0
        command += ["-s", bench.write("paths.lua", SCRIPT.format(list=listed, pause=pause)), server.url]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail(f"wrk failed: {done.stdout}{done.stderr}")
    return Load(done.stdout)


def compared(bench, servers, what, measure_one):
    """A row for each server, with a server of its own for each measurement, in turns."""
    loads = {name: [] for name, _ in servers}
    for number in range(bench.runs):
        for name, start in servers if number % 2 == 0 else reversed(servers):
            with start() as server:
                loads[name].append(measure_one(server))
    ours = loads["oar-tiles"]
    for name, found in loads.items():
        ratio = "" if name == "oar-tiles" else "; oar-tiles has {} x its rate".format(
            ", ".join(f"{one.rate / other.rate:.2f}" for one, other in zip(ours, found)))
        row(bench, f"{name}: {what}", found, ratio)


def row(bench, what, loads, more=""):
    errors = sum(load.errors for load in loads)
    bench.row(f"serve, {what}", f"{median(load.rate for load in loads):,.0f}/s",
              ratio=f"p99 {median(load.p99 for load in loads):.2f} ms, {errors} errors{more}")


def half(bench, archive, sequence):
    """The latency at half of what the server can do."""
    with oar_tiles(bench, archive) as server:
        most = load(bench, server, sequence, GZIP)
        row(bench, "tiles by Zipf's law, half of saturation", [load(bench, server, sequence, GZIP, most.rate / 2)])


def live(bench, tiles):
    """Tiles of the zooms above an archive that holds the highest alone, rendered on request: one over and over, then each once."""
    text = Path(bench.config).read_text()
    config, without_rows = bench.write("live.toml", text), bench.write("without-rows.toml", f"{text}\n[run]\nrows_mb = 0\n")
    archive = bench.file("highest.mbtiles")
    # The rows that a server keeps are followed by the change log.
    bench.install_triggers()
    bench.timed("seed", "--zoom", str(tiles.highest), "--output", archive)
    more = ["--database-url", bench.url, "--live", "--workers", bench.workers]
    random.Random(2).shuffle(cold := [path_of(tile) for tile in tiles.above])
    first, cold = cold[:2_000], cold[2_000:]
    servers = [("oar-tiles", lambda: with_rows(bench, archive, config, more, first)),
               ("oar-tiles, rows_mb = 0", lambda: oar_tiles(bench, archive, "--config", without_rows, *more))]
    if shutil.which("martin"):
        servers.append(("martin", lambda: martin(bench, archive, "api_facility")))
    hot = path_of(tiles.hot_live)
    for name, start in servers:
        with start() as server:
            bench.note(f"serve: {name} sends the hot live tile in {sent_bytes(server, hot):,} bytes.")
    compared(bench, servers, "hot live tile, gzip", lambda server: load(bench, server, [hot], GZIP))
    compared(bench, servers, f"{len(cold):,} cold live tiles", lambda server: load(bench, server, cold, GZIP))


@contextlib.contextmanager
def with_rows(bench, archive, config, more, paths):
    """A server that draws live tiles from rows that it keeps: it is asked for these tiles until it does. A few tiles are too
    few for that."""
    command = ["taskset", "-c", "0", bench.oar_tiles, "serve", archive, "--config", config, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
               "--trusted-proxy", "127.0.0.1", "--drain", "0s", *more]
    with with_admin(bench, command, "with-rows.log") as (process, url, admin):
        for path in paths:
            with urllib.request.urlopen(f"{url}{path}.pbf"), urllib.request.urlopen(f"{admin}/status.json") as status:
                if json.load(status)["live_rows"]["tiles"]:
                    break
            time.sleep(0.02)
        else:
            bench.note(f"serve: after {len(paths):,} live tiles the server keeps no rows yet.")
        yield Server(process, url, "{}.pbf".format)


def beside_edits(bench, archive, sequence):
    """Reads while `reseed --watch` commits edits into the same archive."""
    bench.install_triggers()
    watch.number_rows(bench)
    command = ["reseed", "--watch", "--debounce", DEBOUNCE, "--output", archive]
    bench.timed("seed", "--zoom", bench.zooms, "--output", archive)
    log = open(bench.file("watch.log"), "w")
    watching = subprocess.Popen([bench.oar_tiles, *command, "--database-url", bench.url, "--workers", "1"], stdin=subprocess.DEVNULL,
                                stdout=log, stderr=log)
    with ended(watching), oar_tiles(bench, archive) as server:
        bench.options.watch_seconds = bench.options.serve_seconds
        editing = threading.Thread(target=watch.update, args=(bench, EDITS_PER_SECOND))
        editing.start()
        row(bench, f"tiles by Zipf's law beside {EDITS_PER_SECOND} edits a second", [load(bench, server, sequence, GZIP, 2_000)],
            " (2,000 requests a second)")
        editing.join()


def memory(bench, archive, tiles):
    """Resident memory while random tiles are asked for, against the limit of the cache."""
    limit = 64
    paths = [path_of(tile) for tile in tiles.all]
    random.Random(3).shuffle(paths)
    with oar_tiles(bench, archive, "--cache-mb", str(limit)) as server:
        found = []
        for _ in range(4):
            load(bench, server, paths, GZIP)
            found.append(server.memory())
        bench.row(f"serve, memory with {tiles_in(archive):,} random tiles, cache {limit} MB", f"{4 * bench.options.serve_seconds} s",
                  f"{max(found):.0f} MB", ratio="after each quarter " + ", ".join(f"{memory:.0f} MB" for memory in found))
