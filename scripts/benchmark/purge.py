"""From a commit to the purge at a real Varnish, beside the time from the commit to the target: writer and server in one process. And what it
takes to plan a purge of many tiles."""

import contextlib
import http.client
import math
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from .bench import ROOT, fail
from .serve import ended

# A tile whose answer does not change within this time is an error.
PATIENCE_SECONDS = 30
# Who may purge at the Varnish of examples/.
PURGE_TOKEN = "0123456789abcdef0123456789abcdef-purge"
# Tiles of the change-set that is planned, in squares of a hundred.
PLANNED_TILES = 100_000
PLANNED_RUNS = 5


def measure(bench):
    if varnishd() is None:
        fail("varnishd is not installed (Debian: varnish and varnish-modules)")
    bench.install_triggers()
    after_commits(bench)
    planning(bench)


def varnishd():
    return shutil.which("varnishd", path=os.environ["PATH"] + ":/usr/sbin")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextlib.contextmanager
def varnish(bench, backend, keeps_queries=False):
    port = free_port()
    text = Path(f"{ROOT}/examples/varnish.vcl").read_text().replace('.port = "8080"', f'.port = "{backend}"')
    if keeps_queries:
        passed = '    if (req.url ~ "\\?") {\n        return (pass);\n    }\n'
        if passed not in text:
            fail("examples/varnish.vcl passes queries in another way")
        text = text.replace(passed, "")
    token = Path(bench.file("purge-token"))
    token.write_text(f"{PURGE_TOKEN}\n")
    text = text.replace("/etc/varnish/purge-token", str(token))
    vcl = Path(bench.file("purge.vcl"))
    vcl.write_text(text)
    command = [varnishd(), "-F", "-j", "none", "-s", "malloc,512m", "-a", f"127.0.0.1:{port}", "-n", bench.file("varnish"), "-f", str(vcl)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with ended(process):
        end = time.time() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.time() > end:
                fail("varnishd does not start")
            time.sleep(0.05)
        yield port


def config(bench, cache):
    """The configuration of the bench, and the cache."""
    path = Path(bench.file("purge.toml"))
    own = Path(os.environ["OAR_TILES_CONFIG"]).read_text()
    token = bench.file("purge-token")
    purge = f'[[purge]]\nprovider = "varnish"\nurl = "http://127.0.0.1/"\ncaches = ["http://127.0.0.1:{cache}"]\ntoken_file = "{token}"\n'
    path.write_text(f"{own}\n[changes]\ndebounce = \"200ms\"\n{purge}")
    return str(path)


class Viewer:
    """Asks for a tile again and again over one connection."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port)

    def tag(self, path):
        self.connection.request("GET", path, headers={"Accept-Encoding": "gzip", "Host": "127.0.0.1"})
        answer = self.connection.getresponse()
        answer.read()
        return answer.getheader("ETag")


def after_commits(bench):
    target = bench.file("purge.mbtiles")
    bench.timed("seed", "--zoom", bench.zooms, "--output", target)
    port = free_port()
    with varnish(bench, port) as cache:
        command = [bench.oar_tiles, "serve", target, "--listen", f"127.0.0.1:{port}", "--trusted-proxy", "127.0.0.1", "--drain", "0s",
                   "--cache-control", "public, max-age=3600", "--writer=always", "--database-url", bench.url,
                   "--config", config(bench, cache)]
        log = open(bench.file("purge.log"), "w")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        with ended(process):
            if re.search(r" at http://", process.stdout.readline()) is None:
                fail(f"oar-tiles serve does not start: {Path(log.name).read_text()[-2000:]}")
            target_times, purge_times = edits(bench, Viewer(port), Viewer(cache))
    between = sorted(purged - shown for shown, purged in zip(target_times, purge_times))
    ninety_fifth = lambda times: sorted(times)[math.ceil(len(times) * 0.95) - 1]
    bench.row("commit to target (serve --writer)", f"p95 {ninety_fifth(target_times) * 1e3:.0f} ms", zooms=bench.zooms, ratio=f"{len(target_times)} edits, one by one, debounce 200 ms")
    bench.row("commit to Varnish's fresh tile", f"p95 {ninety_fifth(purge_times) * 1e3:.0f} ms", zooms=bench.zooms,
              ratio=f"after the target: median {between[len(between) // 2] * 1e3:.0f} ms, p95 {ninety_fifth(between) * 1e3:.0f} ms, at most {between[-1] * 1e3:.0f} ms")


def edits(bench, server, cache):
    """Seconds from each commit until the server, and the cache, show it."""
    rows = bench.sql(f"SELECT id || ' ' || ST_X(location) || ' ' || ST_Y(location) FROM api_facility WHERE abs(ST_Y(location)) < 80 ORDER BY id LIMIT {bench.options.fresh_edits}")
    target_times, purge_times = [], []
    for line in rows.splitlines():
        key, longitude, latitude = line.split()
        path = tile_of(int(bench.high), float(longitude), float(latitude))
        before = server.tag(path)
        while cache.tag(path) != before:
            time.sleep(0.01)
        bench.sql(f"UPDATE api_facility SET name = name || '~' WHERE id = {key}" if key.isdigit() else f"UPDATE api_facility SET name = name || '~' WHERE id = '{key}'")
        committed = time.perf_counter()
        shown = purged = None
        while purged is None:
            if shown is None and server.tag(path) != before:
                shown = time.perf_counter() - committed
            if shown is not None and cache.tag(path) != before:
                purged = time.perf_counter() - committed
            if time.perf_counter() - committed > PATIENCE_SECONDS:
                fail(f"{path} is not fresh {PATIENCE_SECONDS} s after the commit: {Path(bench.file('purge.log')).read_text()[-2000:]}")
            time.sleep(0.001)
        target_times.append(shown)
        purge_times.append(purged)
    return target_times, purge_times


def tile_of(zoom, longitude, latitude):
    side = 2**zoom
    radians = math.radians(latitude)
    x = int((longitude + 180) / 360 * side)
    y = int((1 - math.asinh(math.tan(radians)) / math.pi) / 2 * side)
    return f"/{zoom}/{min(x, side - 1)}/{min(y, side - 1)}.pbf"


def planning(bench):
    """A purge of many tiles, planned and not sent, beside one of a single tile: the rest is the start of the program."""
    lists = {1: ["0/0/0"], PLANNED_TILES: []}
    for square in range(PLANNED_TILES // 100):
        left, top = square % 40 * 397, square // 40 * 613
        lists[PLANNED_TILES] += [f"14/{left + x}/{top + y}" for x in range(10) for y in range(10)]
    for by in ["path", "tag"]:
        text = Path(os.environ["OAR_TILES_CONFIG"]).read_text()
        path = Path(bench.file("plan.toml"))
        path.write_text(f'{text}\n[serve]\ntag_headers = ["Cache-Tag"]\n[[purge]]\nprovider = "cloudfront"\nurl = "http://h/"\ndistribution = "E1"\nby = "{by}"\n')
        took, memory = {}, {}
        for count, tiles in lists.items():
            listed = Path(bench.file(f"plan-{count}.txt"))
            listed.write_text("\n".join(tiles))
            runs = [planned(bench, path, listed) for _ in range(PLANNED_RUNS)]
            took[count], memory[count] = sorted(run[0] for run in runs)[PLANNED_RUNS // 2], max(run[1] for run in runs)
        bench.row(f"purge of {PLANNED_TILES:,} tiles planned, by {by}", f"{took[PLANNED_TILES] - took[1]:.3f} s",
                  f"{memory[PLANNED_TILES] - memory[1]:.0f} MB", zooms="14", ratio=f"the whole command {took[PLANNED_TILES]:.3f} s, {memory[PLANNED_TILES]:.0f} MB")


def planned(bench, config, listed):
    """Seconds and MB of a dry run."""
    begun = time.perf_counter()
    command = [bench.oar_tiles, "purge", "--dry-run", "--tiles", str(listed), "--config", str(config), bench.file("purge.mbtiles")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        fail("a purge cannot be planned")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024
