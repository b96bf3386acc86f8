"""`oar-tiles reseed --watch` under load, into MBTiles, a directory and S3.

When a row was changed is read from the change log; what the target holds, from the snapshot in its manifest after each reseed.
"""

import datetime
import hashlib
import hmac
import json
import os
import sqlite3
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from .bench import fail, median
from .targets import s3_config

UPDATES_PER_SECOND = [0, 100, 1000]
UPDATES_PER_SECOND_POLLING = [0, 1, 100]
DEBOUNCE = "200ms"
# The watch may take this long to bring its target up to date; a machine that cannot keep up is not waited for any longer.
PATIENCE_SECONDS = 600
TICKS = os.sysconf("SC_CLK_TCK")


def measure(bench):
    bench.install_triggers()
    number_rows(bench)
    if "mbtiles" in bench.options.watch_targets:
        measure_target(bench, "MBTiles", bench.file("watch.mbtiles"), manifest_of_mbtiles)
    if "directory" in bench.options.watch_targets:
        measure_target(bench, "a directory", bench.file(f"watch-{bench.count}/"), manifest_of_directory)
    if "s3" in bench.options.watch_targets:
        target = f"s3://bench/watch-{bench.count}/"
        measure_target(bench, "S3", target, lambda place: manifest_of_bucket(bench.s3, place), "--config", s3_config(bench))


def measure_target(bench, name, target, manifest, *more, zooms=None, rates=None):
    # Most edits are seen in deep tiles; the shallow ones of a large table take long for every edit.
    zooms = zooms or f"{max(int(bench.low), 8) if int(bench.high) >= 8 else bench.low}-{bench.high}"
    bench.timed("seed", "--zoom", zooms, "--output", target, *more)
    if bench.options.watch_polling:
        name += " without notifications"
    for rate in rates or (UPDATES_PER_SECOND_POLLING if bench.options.watch_polling else UPDATES_PER_SECOND):
        bench.sql("CHECKPOINT")
        watch = Watch(bench, target, manifest, more)
        # After a first change of so many rows everything is loaded that a watch ever loads, the rows that it keeps among it.
        bench.sql("UPDATE api_facility SET name = name || '~' WHERE id IN (SELECT id FROM api_facility ORDER BY id LIMIT 1200)")
        watch.waits_for_all()
        # The rows are read beside the looks.
        time.sleep(1 + bench.count / 100_000)
        if rate == 0:
            idle(bench, name, watch, zooms)
        else:
            loaded(bench, name, watch, zooms, rate)
        watch.ends()


def idle(bench, name, watch, zooms):
    used = watch.processor_seconds()
    time.sleep(bench.options.watch_seconds)
    share = (watch.processor_seconds() - used) / bench.options.watch_seconds
    bench.row(f"--watch into {name}, nothing to do", f"{share * 1e3:.1f} ms/s", f"{watch.memory():.0f} MB", zooms=zooms,
              ratio="processor time")


def loaded(bench, name, watch, zooms, rate):
    before, tiles, reseeds, begun = watch.memory(), watch.tiles, len(watch.shown), time.time()
    update(bench, rate)
    ended = time.time()
    watch.waits_for_all()
    drained, peak = time.time() - ended, watch.memory("VmHWM")
    times = latencies(bench, watch, begun)
    rest = min(60, 3 * bench.options.watch_seconds)
    time.sleep(rest)
    after = watch.memory()
    bench.row(f"--watch into {name}, {len(times) / bench.options.watch_seconds:,.0f} updates/s",
              f"p95 {times[int(len(times) * 0.95) - 1]:.2f} s", f"{peak:.0f} MB", f"{watch.tiles - tiles:,}", zooms=zooms,
              ratio=f"median {median(times):.2f}, at most {times[-1]:.2f} s; {len(watch.shown) - reseeds} reseeds, the last "
              f"{drained:.1f} s after the load; memory before {before:.0f} MB, {rest} s after {after:.0f} MB: {after / before:.2f} x")


class Watch:
    """A watch of a target, and the snapshots that the target has shown since."""

    def __init__(self, bench, target, manifest, more):
        self.bench, self.target, self.manifest = bench, target, manifest
        self.shown, self.tiles = [], 0
        self.log = bench.file("watch.log")
        command = [bench.oar_tiles, "reseed", "--watch", "--debounce", DEBOUNCE, "--poll", "1h", "--database-url", bench.url,
                   "--workers", bench.workers, "--progress", "json", "--output", target, *more]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "done":
                now = time.time()
                self.shown.append((now, json.loads(self.manifest(self.target))["snapshot"]))
                self.tiles += event["tiles"]

    def waits_for_all(self):
        """Waits until the target shows everything that the change log holds."""
        last = int(self.bench.sql("SELECT max(xid) FROM oar_tiles.change"))
        end = time.time() + PATIENCE_SECONDS
        while not any(is_visible(last, snapshot) for _, snapshot in self.shown):
            if self.process.poll() is not None or time.time() > end:
                self.fails("does not bring its target up to date")
            time.sleep(0.01)

    def memory(self, field="VmRSS"):
        """Resident memory in MB: now, or at most (VmHWM)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))

    def processor_seconds(self):
        # The name, in parentheses, may hold spaces.
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def ends(self):
        self.process.terminate()
        if self.process.wait() != 0:
            self.fails(f"ended with {self.process.returncode}")
        self.reader.join()

    def fails(self, how):
        fail(f"reseed --watch {how}: {Path(self.log).read_text()[-2000:]}")


def number_rows(bench):
    """Numbers the facilities, so that `update` can choose some at random."""
    bench.sql("DROP TABLE IF EXISTS bench_ids; CREATE TABLE bench_ids AS SELECT (row_number() OVER (ORDER BY md5(id)))::int AS n, id "
              "FROM api_facility; ALTER TABLE bench_ids ADD PRIMARY KEY (n); VACUUM ANALYZE bench_ids")


def update(bench, rate):
    """Moves facilities, each in a transaction of its own, chosen at random. The rows have numbers (`number_rows`)."""
    script = bench.write("move.sql", f"\\set n random(1, {bench.count})\n\\set east random(-9, 9)\n\\set north random(-9, 9)\n"
                         "UPDATE api_facility SET location = ST_Translate(location, :east * 0.0004, :north * 0.0003) "
                         "WHERE id = (SELECT id FROM bench_ids WHERE n = :n);\n")
    command = [f"{bench.pg_bindir}/pgbench", "-n", "-M", "prepared", "-c", "4", "-R", str(rate),
               "-T", str(bench.options.watch_seconds), "-f", script, bench.url]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail(f"pgbench failed: {done.stderr}")


def latencies(bench, watch, begun):
    """Seconds from each change since a time until the target showed it, in order."""
    found = []
    for line in bench.sql(f"SELECT xid, extract(epoch FROM at) FROM oar_tiles.change WHERE at > to_timestamp({begun})").splitlines():
        xid, at = line.split("|")
        found.append(next(now for now, snapshot in watch.shown if is_visible(int(xid), snapshot)) - float(at))
    return sorted(found)


def is_visible(xid, snapshot):
    """True if a snapshot (`xmin:xmax:xip,…`) sees a transaction."""
    _, xmax, running = snapshot.split(":")
    return xid < int(xmax) and str(xid) not in running.split(",")


def manifest_of_mbtiles(place):
    with sqlite3.connect(f"file:{place}?mode=ro", uri=True) as archive:
        return archive.execute("SELECT value FROM metadata WHERE name = 'oar_tiles_manifest'").fetchone()[0]


def manifest_of_directory(place):
    return json.loads(Path(place, "metadata.json").read_text())["oar_tiles_manifest"]


def manifest_of_bucket(endpoint, place):
    return json.loads(signed_get(endpoint, f"/{place.removeprefix('s3://')}metadata.json"))["oar_tiles_manifest"]


def signed_get(endpoint, path):
    """Reads an object (AWS Signature Version 4)."""
    key, secret, region = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], "us-east-1"
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    scope, host, empty = f"{now[:8]}/{region}/s3/aws4_request", urllib.parse.urlparse(endpoint).netloc, hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": now}
    signed = ";".join(headers)
    request = "\n".join(["GET", path, "", *(f"{name}:{value}" for name, value in headers.items()), "", signed, empty])
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
    signature = f"AWS4{secret}".encode()
    for part in [*scope.split("/"), text]:
        signature = hmac.new(signature, part.encode(), hashlib.sha256).digest()
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={signed}, Signature={signature.hex()}"
    with urllib.request.urlopen(urllib.request.Request(endpoint + path, headers=headers)) as answer:
        return answer.read()
