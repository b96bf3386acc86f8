"""`oar-tiles serve --writer --live`: live requests and background work on shared workers (soak), and how soon an edit shows (freshness)."""

import contextlib
import itertools
import json
import random
import re
import shutil
import sqlite3
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from . import watch
from .bench import fail
from .serve import CONNECTIONS, EDITS_PER_SECOND, SCRIPT, Load, Server, with_admin

TOKEN = "0123456789abcdef0123456789abcdef"
DEBOUNCE = "200ms"
# The longest that anything is waited for.
PATIENCE_SECONDS = 600
# How long a live tile may wait for a worker, and how long it may take then.
TIME_LIMIT_SECONDS = 10
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def measure(bench):
    if shutil.which("wrk") is None:
        fail("wrk is not installed (Debian: wrk)")
    bench.install_triggers()
    watch.number_rows(bench)
    soak(bench)
    freshness(bench)


class Daemon(Server):
    """A server with a writer and an admin listener."""

    def __init__(self, process, url, admin):
        super().__init__(process, url, "{}.pbf".format)
        self.admin = admin

    def ask(self, path, body=None):
        headers = {**AUTHORIZED, "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.admin + path, data, headers)) as answer:
            return json.load(answer)

    def waits(self, kind):
        """The buckets of the wait of a class of work: upper bounds in seconds and how many waited no longer."""
        with urllib.request.urlopen(self.admin + "/metrics") as answer:
            text = answer.read().decode()
        found = re.findall(r"^oar_tiles_queue_wait_seconds_bucket\{(.*)\} (\d+)$", text, re.M)
        labels = [(dict(re.findall(r'(\w+)="([^"]*)"', of)), int(count)) for of, count in found]
        return [(float(of["le"].replace("+Inf", "inf")), count) for of, count in labels if of["class"] == kind]

    def submit(self, job):
        return self.ask("/jobs", job)["id"]

    def job(self, number):
        return self.ask(f"/jobs/{number}")

    def waits_for(self, what, holds):
        end = time.time() + PATIENCE_SECONDS
        while not holds():
            if time.time() > end or self.process.poll() is not None:
                fail(f"the server: {what} is waited for in vain")
            time.sleep(0.005)


@contextlib.contextmanager
def daemon(bench, archive, more):
    token = bench.write("token", TOKEN)
    # The layer of scripts/every-facility.toml; the zooms of the target decide what is live.
    settings = f"[run]\nworkers = {bench.options.soak_workers}\n[changes]\ndebounce = \"{DEBOUNCE}\"\n[serve]\ntoken_file = \"{token}\"\n{more}\n"
    config = bench.write("daemon.toml", Path(bench.config).read_text() + settings)
    command = [bench.oar_tiles, "serve", archive, "--config", config, "--database-url", bench.url, "--live", "--writer", "--listen", "127.0.0.1:0",
               "--admin", "127.0.0.1:0", "--trusted-proxy", "127.0.0.1", "--drain", "0s"]
    with with_admin(bench, command, "daemon.log") as (process, url, admin):
        server = Daemon(process, url, admin)
        server.waits_for("the writer", lambda: server.ask("/status.json")["writer"]["role"] == "writing")
        yield server


def soak(bench):
    """Live requests at half of what the workers carry, alone and beside a seed; then more of them than the workers carry."""
    workers = bench.options.soak_workers
    guaranteed = 1 if workers > 1 else 0
    archive = bench.file("soak.mbtiles")
    bench.timed("seed", "--zoom", bench.zooms, "--output", archive)
    paths = live_paths(bench, int(bench.high) + 1)
    # Nothing is answered from memory: each request is rendered. Stored tiles are stale soon, so that there are refreshes.
    shares = (f"workers = {workers}\nbackground_guaranteed = {guaranteed}\nlive_timeout = \"{TIME_LIMIT_SECONDS}s\"\nlive_ttl = \"1ms\"\n"
              "live_queue = 1000\ncache_mb = 0\nexpires = \"1s\"")
    with daemon(bench, archive, shares) as server:
        most = wrk(bench, server, paths, 4 * workers)
        carried = most.rate * (workers - guaranteed) / workers / 2
        alone = wrk(bench, server, paths, CONNECTIONS, carried)
        seed_alone, _ = beside_seed(bench, server, lambda: time.sleep(bench.options.soak_seconds))
        seed_beside, beside = beside_seed(bench, server, lambda: wrk(bench, server, paths, CONNECTIONS, carried))
        bench.row(f"serve, soak: {workers} workers, {carried:,.0f} live tiles/s (half of saturation)", f"p99 {alone.p99:.1f} ms",
                  ratio=f"p99 {beside.p99:.1f} ms beside a seed: {beside.p99 / max(alone.p99, 0.001):.2f} x; {alone.errors + beside.errors} errors; "
                  f"the seed has {seed_beside:,.0f} tiles/s, alone {seed_alone:,.0f}: {seed_beside / max(seed_alone, 1):.2f} x")
        refreshing = Refreshing(server, stored_paths(archive))
        seed_saturated, full = beside_seed(bench, server, lambda: wrk(bench, server, paths, 8 * workers))
        refreshing.ends()
        waits = server.waits("refresh")
        oldest = next((bound for bound, count in waits if count == waits[-1][1]), 0)
        bench.row(f"serve, soak: saturated, {8 * workers} clients", f"{full.rate:,.0f}/s",
                  ratio=f"p99 {full.p99:.1f} ms, {full.errors} errors; the seed has {seed_saturated:,.0f} tiles/s; "
                  f"{waits[-1][1] if waits else 0} refreshes waited at most {oldest:g} s (the time limit is {TIME_LIMIT_SECONDS} s)")


class Refreshing:
    """Asks for stored tiles, which are stale: each is refreshed in the background."""

    def __init__(self, server, paths):
        self.server, self.paths, self.is_over = server, paths, threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        for path in itertools.cycle(self.paths):
            if self.is_over.wait(0.1):
                return
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(self.server.url + self.server.paths(path)).close()

    def ends(self):
        self.is_over.set()
        self.thread.join()


def stored_paths(archive):
    with sqlite3.connect(f"file:{archive}?mode=ro", uri=True) as tiles:
        rows = tiles.execute("SELECT zoom_level, tile_column, (1 << zoom_level) - 1 - tile_row FROM tiles ORDER BY random() LIMIT 1000")
        return ["/{}/{}/{}".format(*row) for row in rows]


def live_paths(bench, zoom):
    """Tiles of a zoom that is rendered on request, in which something is drawn."""
    side = 2**zoom
    rows = bench.sql(f"SELECT DISTINCT floor((ST_X(location) + 180) / 360 * {side})::int, "
                     f"floor((1 - ln(tan(radians(ST_Y(location))) + 1 / cos(radians(ST_Y(location)))) / pi()) / 2 * {side})::int "
                     "FROM api_facility WHERE abs(ST_Y(location)) < 85 LIMIT 200000").splitlines()
    paths = ["/{}/{}/{}".format(zoom, *row.split("|")) for row in rows]
    random.Random(5).shuffle(paths)
    return paths


def wrk(bench, server, paths, connections, rate=None):
    listed = bench.write("live.paths", "".join(f"{server.paths(path)}\n" for path in paths))
    pause = round(connections / rate * 1000) if rate else 0
    script = bench.write("live.lua", SCRIPT.format(list=listed, pause=pause))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{bench.options.soak_seconds}s", "--timeout", "30s", "--latency",
               "-H", "Accept-Encoding: gzip", "-s", script, server.url]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail(f"wrk failed: {done.stdout}{done.stderr}")
    return Load(done.stdout)


def beside_seed(bench, server, work):
    """Tiles per second that a seed stores while some work is done, and what the work gave. Seeds follow each other if one ends early."""
    seeding = Seeding(server)
    begun, before = time.time(), seeding.tiles()
    given = work()
    rate = (seeding.tiles() - before) / (time.time() - begun)
    seeding.ends()
    return rate, given


class Seeding:
    """Seeds in a server, one after the other."""

    def __init__(self, server):
        self.server, self.done, self.is_over = server, 0, False
        self.number = server.submit({"what": "seed"})
        self.thread = threading.Thread(target=self.run)
        server.waits_for("a seed's first tiles", lambda: self.tiles() > 0)
        self.thread.start()

    def tiles(self):
        return self.done + tiles_of(self.server.job(self.number))

    def run(self):
        while not self.is_over:
            job = self.server.job(self.number)
            if has_ended(job):
                if job["state"] != "done":
                    fail(f"a seed ended: {job}")
                self.done += tiles_of(job)
                self.number = self.server.submit({"what": "seed"})
            time.sleep(0.02)

    def ends(self):
        self.is_over = True
        self.thread.join()
        request = urllib.request.Request(f"{self.server.admin}/jobs/{self.number}", headers=AUTHORIZED, method="DELETE")
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(request).close()
        self.server.waits_for("the end of the seed", lambda: has_ended(self.server.job(self.number)))


def tiles_of(job):
    """The tiles that a job has stored up to now."""
    if job.get("progress"):
        return job["progress"]["done"]
    return job["report"]["written"] + job["report"]["unchanged"] if job.get("report") else 0


def has_ended(job):
    return job["state"] in ("done", "failed", "cancelled")


def freshness(bench):
    """From a commit until the server sends the tile with it: one edit after the other, then beside 100 edits a second."""
    archive = bench.file("fresh.mbtiles")
    bench.timed("seed", "--zoom", bench.zooms, "--output", archive)
    with daemon(bench, archive, f"workers = {bench.options.soak_workers}") as server:
        shown(bench, server, "idle")
        with Editing(bench) as editing:
            published = server.ask("/status.json")["writer"]["published"]
            server.waits_for("a publish under load", lambda: server.ask("/status.json")["writer"]["published"] > published + 1)
            begun, published = time.time(), server.ask("/status.json")["writer"]["published"]
            shown(bench, server, f"beside {EDITS_PER_SECOND} edits/s")
            publishes = server.ask("/status.json")["writer"]["published"] - published
            took = time.time() - begun
            bench.note(f"serve, freshness: beside {EDITS_PER_SECOND} edits/s one publish every {took / max(publishes, 1):.2f} s, debounce included; "
                       f"the load ended {'early' if editing.has_ended() else 'after it'}.")


class Editing:
    """pgbench, which moves facilities meanwhile."""

    def __init__(self, bench):
        script = bench.write("move.sql", f"\\set n random(1, {bench.count - 1})\n\\set east random(-9, 9)\n\\set north random(-9, 9)\n"
                             "UPDATE api_facility SET location = ST_Translate(location, :east * 0.0004, :north * 0.0003) "
                             "WHERE id = (SELECT id FROM bench_ids WHERE n = :n);\n")
        command = [f"{bench.pg_bindir}/pgbench", "-n", "-M", "prepared", "-c", "4", "-R", str(EDITS_PER_SECOND), "-T", str(PATIENCE_SECONDS),
                   "-f", script, bench.url]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def has_ended(self):
        return self.process.poll() is not None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def shown(bench, server, what):
    """Renames a facility again and again; asks for its tile until the new name is there."""
    times, zoom = [], bench.high
    tile = bench.sql(f"SELECT floor((ST_X(location) + 180) / 360 * 2^{zoom})::int || '/' || "
                     f"floor((1 - ln(tan(radians(ST_Y(location))) + 1 / cos(radians(ST_Y(location)))) / pi()) / 2 * 2^{zoom})::int "
                     "FROM api_facility WHERE id = (SELECT min(id) FROM api_facility)")
    # Nobody else moves it.
    bench.sql("DELETE FROM bench_ids WHERE id = (SELECT min(id) FROM api_facility)")
    request = urllib.request.Request(f"{server.url}/{zoom}/{tile}.pbf", headers={"Accept-Encoding": "identity"})
    for number in range(bench.options.fresh_edits):
        name = f"fresh {what} {number}"

        def is_there():
            with urllib.request.urlopen(request) as answer:
                return name.encode() in answer.read()

        # The server's clock right after the commit: psql takes a while to start and to end.
        committed = float(bench.sql(f"UPDATE api_facility SET name = '{name}' WHERE id = (SELECT min(id) FROM api_facility); "
                                    "SELECT extract(epoch FROM clock_timestamp())"))
        server.waits_for("an edit", is_there)
        times.append(time.time() - committed)
        time.sleep(random.random() / 4)
    times.sort()
    bench.row(f"serve, freshness {what}: commit until the answer has it", f"p95 {times[max(int(len(times) * 0.95) - 1, 0)]:.3f} s",
              ratio=f"p50 {times[len(times) // 2]:.3f} s, at most {times[-1]:.3f} s; {len(times)} edits, debounce {DEBOUNCE}")
