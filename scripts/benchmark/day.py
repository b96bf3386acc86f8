"""A day of Open Supply Hub's writers in a minute or two, beside a server that keeps its tiles up to date: edits all the time, a merge, a list switched off, a
back-fill of the whole index table. How soon commits are in answers, how soon after its end a back-fill is in all tiles, and whether the stored tiles end as a seed
would make them."""

import gzip
import itertools
import json
import math
import queue
import random
import subprocess
import threading
import time

from . import open_supply_hub, writers
from .bench import fail
from .filters import Client, path
from .serve import with_admin

WIDTH = 5000
EDITS_PER_SECOND, EDIT_SECONDS = 50, 60
# Probes begin at this pace, however long the ones before take.
PROBES_PER_SECOND = 2
# What is measured beside a short change goes on for this long, unless the tiles after it are measured.
LEAST_SECONDS = 10
PATIENCE_SECONDS = 300
# A probe looks again after a twentieth of the time that it has waited, and not more often than this.
LEAST_PAUSE = 0.02
# Facilities that only probes change, and that are in no list that is switched off.
PROBED = 1000
# Of the layer of facilities; hexagons are seeded at all their zooms.
ZOOMS = "1-13"
BACK_FILLED = "1001-5000"
# Tiles that have to show a back-fill, at each zoom.
TILES_OF_ZOOM, ZOOMS_OF_TILES = 8, [1, 2, 4, 6, 8, 10, 11, 12, 13]


def measure(bench):
    open_supply_hub.fill(bench, WIDTH)
    config = open_supply_hub.config(bench)
    bench.install_triggers("--config", config)
    bench.sql("CREATE TABLE bench_ids AS SELECT (row_number() OVER (ORDER BY EXISTS (SELECT FROM api_facilitylistitem AS i WHERE i.facility_id = f.id AND i.source_id IN (1, 9)), "
              "md5(id)))::int AS n, id, ST_X(location) AS x, ST_Y(location) AS y FROM api_facilityindex AS f; ALTER TABLE bench_ids ADD PRIMARY KEY (n); ANALYZE bench_ids")
    runs(bench, "seed", "--config", config, "--zoom", ZOOMS)
    command = [bench.oar_tiles, "serve", "--config", config, "--writer", "--database-url", bench.url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
               "--trusted-proxy", "127.0.0.1", "--drain", "0s"]
    with with_admin(bench, command, "day.log") as (_, url, _):
        probes = Probes(bench, url)
        # The first answers read the rows.
        [probes.one() for _ in range(3)]
        probes.taken()
        outside = beside(bench, probes, "50 edits a second", lambda: edits(bench))
        outside += beside(bench, probes, "a merge and a list switched off", lambda: merge_and_list(bench))
        told(bench, "outside of the back-fill", outside)
        beside(bench, probes, "a back-fill", lambda: writers.together(bench, writers.back_fill(bench, f"number_of_workers = '{{{BACK_FILLED}}}'")),
               lambda ended: fresh(bench, config, url, ended))
        # Alone, after all that.
        [probes.one() for _ in range(10)]
        told(bench, "at rest after it", probes.taken())
        probes.end()
        # The last edit is in answers before it is in the stored tiles.
        time.sleep(5)
    ends_as_a_seed(bench, config)


def runs(bench, verb, *arguments):
    done = subprocess.run([*bench.command(verb), *arguments], capture_output=True, text=True)
    if done.returncode:
        fail(done.stderr)


def edits(bench):
    """Each statement changes a facility, whose triggers write its index row."""
    chance, begun = random.Random(3), time.monotonic()
    command, env = bench.psql_command()
    session = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)
    count = EDITS_PER_SECOND * EDIT_SECONDS
    for number in range(count):
        time.sleep(max(0, begun + number / EDITS_PER_SECOND - time.monotonic()))
        session.stdin.write(f"UPDATE api_facility SET {chance.choice(['name = substr(name, 1, 190) || chr(126)', 'location = ST_Translate(location, 0.001, 0)'])}, "
                            f"updated_at = now() WHERE id = (SELECT id FROM bench_ids WHERE n = {chance.randint(probed(bench) + 1, bench.count - 2)});\n")
        session.stdin.flush()
    session.stdin.close()
    if session.wait():
        fail("an edit failed (see above)")
    took = time.monotonic() - begun
    if took > EDIT_SECONDS * 1.05:
        bench.note(f"The database took {took:.0f} s for edits of {EDIT_SECONDS} s: {count / took:.0f} a second.")


def probed(bench):
    return min(PROBED, bench.count // 3)


def merge_and_list(bench):
    bench.sql(f"SELECT merge_facilities((SELECT id FROM bench_ids WHERE n = {bench.count - 1}), (SELECT id FROM bench_ids WHERE n = {bench.count}))")
    bench.sql("UPDATE api_source SET is_active = false, updated_at = now() WHERE facility_list_id = 1")
    bench.sql("UPDATE api_facilitymatch SET is_active = false WHERE facility_list_item_id IN (SELECT id FROM api_facilitylistitem WHERE source_id = 9)")


class Probe:
    """The seconds from a commit to the first answers that show it: of a tile without a filter, and of one under a filter; and how many answers were errors."""

    def __init__(self, plain, filtered, errors):
        self.plain, self.filtered, self.errors = plain, filtered, errors


class Probes:
    """Edits whose way into answers is measured: the index row of a facility gets another name, and comes to a list that nobody has."""

    def __init__(self, bench, url):
        self.bench, self.url, self.numbers, self.found, self.failed = bench, url, itertools.count(200_000), [], []
        self.sessions, self.places = queue.SimpleQueue(), [line.split("|") for line in bench.sql(
            f"SELECT id, x, y FROM bench_ids WHERE n <= {probed(bench)} ORDER BY n").splitlines()]

    def taken(self):
        """What was found since the last call."""
        if self.failed:
            fail(self.failed[0])
        found, self.found = self.found, []
        return found

    def one(self):
        try:
            number = next(self.numbers)
            row, x, y = self.places[number % len(self.places)]
            place, name, client = (float(x), float(y)), f"Probe {number}", Client(self.url)
            plain, filtered = "/facilities" + path(13, place), "/facilitygrid" + path(6, place)
            waits = {"plain": lambda: name.encode() in body(client, plain, ""), "filtered": lambda: body(client, filtered, f"lists={number}") != b""}
            # Both are kept from now on, and have to be evicted.
            if any(is_shown() for is_shown in waits.values()):
                raise RuntimeError(f"{row} is {name} before it is")
            begun = self.committed(f"UPDATE api_facilityindex SET name = '{name}', lists = lists || {number}, updated_at = now() WHERE id = '{row}';")
            took, errors = {}, 0
            while waits:
                for what, is_shown in list(waits.items()):
                    try:
                        if is_shown():
                            took[what] = time.monotonic() - begun
                            del waits[what]
                    except RuntimeError:
                        errors += 1
                waited = time.monotonic() - begun
                if waited > PATIENCE_SECONDS:
                    raise RuntimeError(f"an edit is not shown after {PATIENCE_SECONDS} s: {', '.join(waits)}")
                time.sleep(max(LEAST_PAUSE, waited / 20) if waits else 0)
            self.found.append(Probe(**took, errors=errors))
        except Exception as error:  # raised by taken()
            self.failed.append(f"probe: {error}")

    def committed(self, transaction):
        """When a transaction was committed, by the answer of the session that did it."""
        try:
            session = self.sessions.get_nowait()
        except queue.Empty:
            command, env = self.bench.psql_command()
            session = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        session.stdin.write(f"{transaction}\n\\echo committed\n")
        session.stdin.flush()
        if session.stdout.readline().strip() != "committed":
            raise RuntimeError("its transaction failed (see above)")
        at = time.monotonic()
        self.sessions.put(session)
        return at

    def end(self):
        while not self.sessions.empty():
            self.sessions.get().communicate()


def body(client, tile, query):
    client.asks(tile, query)
    return gzip.decompress(client.body) if client.headers.get("content-encoding") == "gzip" else client.body


def beside(bench, probes, what, writes, then=None):
    """Probes that begin while something writes, and for LEAST_SECONDS; without these, `then` is called with the moment in which the writing ended."""
    ended, at = threading.Event(), []

    def all_of_it():
        try:
            writes()
            at.append(time.monotonic())
        finally:
            ended.set()

    writing, begun, running = threading.Thread(target=all_of_it, daemon=True), time.monotonic(), []
    writing.start()
    while not ended.is_set() or not then and time.monotonic() - begun < LEAST_SECONDS:
        running.append(threading.Thread(target=probes.one, daemon=True))
        running[-1].start()
        pause = max(0, begun + len(running) / PROBES_PER_SECOND - time.monotonic())
        ended.wait(pause) if then else time.sleep(pause)
    if not at:
        fail(f"{what} failed (see above)")
    if then:
        then(at[0])
    [thread.join() for thread in running]
    found = probes.taken()
    told(bench, f"beside {what}", found)
    return found


def told(bench, when, found):
    errors = sum(one.errors for one in found)
    for kind, called in [("plain", "without a filter"), ("filtered", "under a filter")]:
        took = sorted(getattr(one, kind) for one in found)
        bench.row(f"day of writers, {when}: commit to a tile {called}", f"{took[len(took) // 2]:.2f} s", zooms="",
                  ratio=f"p95 {took[math.ceil(len(took) * 0.95) - 1]:.2f} s, at most {took[-1]:.2f} s, {len(took)} probes" + f", {errors} errors" * (errors > 0))


def fresh(bench, config, url, begun):
    """How long from the end of the back-fill until tiles under the back-fill's filter show all rows, as the same tiles without a filter do, and until the stored tiles have seen all."""
    client, chance = Client(url), random.Random(4)
    places = [tuple(map(float, line.split("|"))) for line in bench.sql("SELECT x, y FROM bench_ids ORDER BY md5(id || 'a') LIMIT 200").splitlines()]
    tiles = {("/facilitygrid" if zoom <= 11 else "/facilities") + path(zoom, chance.choice(places)) for zoom in ZOOMS_OF_TILES for _ in range(TILES_OF_ZOOM)}
    for tile in tiles:
        while body(client, tile, "") != body(client, tile, f"number_of_workers={BACK_FILLED}"):
            if time.monotonic() - begun > PATIENCE_SECONDS:
                fail(f"{tile} does not show the back-fill after {PATIENCE_SECONDS} s")
            time.sleep(0.05)
    bench.row("day of writers, end of the back-fill to its tiles under its filter", f"{time.monotonic() - begun:.1f} s", zooms="", ratio=f"{len(tiles)} tiles")
    settles(bench, config, begun)


def settles(bench, config, begun):
    """How long from then until the targets have seen all changes."""
    while True:
        looked = time.monotonic()
        done = subprocess.run([bench.oar_tiles, "reseed", "--config", config, "--database-url", bench.url, "--dry-run"], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.count("nothing to do") == 2:
            bench.row("day of writers, end of the back-fill to the stored tiles", f"{looked - begun:.1f} s", zooms="")
            return
        if time.monotonic() - begun > PATIENCE_SECONDS:
            fail(f"the targets are behind: {done.stdout}{done.stderr}")
        time.sleep(0.3)


def ends_as_a_seed(bench, config):
    text = open(config).read().replace("{tileset}.mbtiles", "again-{tileset}.mbtiles")
    again = bench.write("again.toml", text)
    runs(bench, "seed", "--config", again, "--zoom", ZOOMS)
    for name in ["facilities", "facilitygrid"]:
        done = subprocess.run([bench.oar_tiles, "diff", bench.file(f"{name}.mbtiles"), bench.file(f"again-{name}.mbtiles"), "--json"], capture_output=True, text=True)
        if done.returncode not in (0, 1):
            fail(done.stderr)
        bench.row(f"day of writers, {name} beside a seed", "equal" if done.returncode == 0 else "DIFFERENT", zooms=ZOOMS,
                  ratio="" if done.returncode == 0 else json.dumps(json.loads(done.stdout))[:200])
