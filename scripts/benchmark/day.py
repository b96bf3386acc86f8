"""A day of Open Supply Hub's writers in a minute or two, beside a server that keeps its tiles up to date: edits all the time, a merge, a list switched off, a
back-fill of the whole index table. How soon commits are in answers, and whether the stored tiles end as a seed would make them."""

import json
import math
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
PROBES_PER_SECOND = 1
PATIENCE_SECONDS = 300
# Of the layer of facilities; hexagons are seeded at all their zooms.
ZOOMS = "1-13"


def measure(bench):
    open_supply_hub.fill(bench, WIDTH)
    config = open_supply_hub.config(bench)
    bench.install_triggers("--config", config)
    bench.sql("CREATE TABLE bench_ids AS SELECT (row_number() OVER (ORDER BY md5(id)))::int AS n, id, ST_X(location) AS x, ST_Y(location) AS y FROM api_facilityindex; "
              "ALTER TABLE bench_ids ADD PRIMARY KEY (n); ANALYZE bench_ids")
    runs(bench, "seed", "--config", config, "--zoom", ZOOMS)
    command = [bench.oar_tiles, "serve", "--config", config, "--writer", "--database-url", bench.url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
               "--trusted-proxy", "127.0.0.1", "--drain", "0s"]
    with with_admin(bench, command, "day.log") as (_, url, _):
        client = Client(url)
        probes(bench, client, 3)
        beside(bench, client, "50 edits a second", lambda: edits(bench))
        beside(bench, client, "a merge and a list switched off", lambda: merge_and_list(bench))
        begun = beside(bench, client, "a back-fill", lambda: writers.together(bench, writers.back_fill(bench, "number_of_workers = '{1001-5000}'")))
        took = probes(bench, client, 1)[0]
        bench.row("day of writers, fresh after the end of the back-fill", f"{time.monotonic() - begun:.1f} s", zooms="", ratio=f"the last probe {took:.2f} s")
        settles(bench, config)
    ends_as_a_seed(bench, config)


def runs(bench, verb, *arguments):
    done = subprocess.run([*bench.command(verb), *arguments], capture_output=True, text=True)
    if done.returncode:
        fail(done.stderr)


def edits(bench):
    """Each statement changes a facility, whose triggers write its index row."""
    chance, end = random.Random(3), time.monotonic() + EDIT_SECONDS
    command, env = bench.psql_command()
    session = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=env)
    next_at = time.monotonic()
    while time.monotonic() < end:
        session.stdin.write(f"UPDATE api_facility SET {chance.choice(['name = substr(name, 1, 190) || chr(126)', 'location = ST_Translate(location, 0.001, 0)'])}, "
                            f"updated_at = now() WHERE id = (SELECT id FROM bench_ids WHERE n = {chance.randint(1, bench.count)});\n")
        session.stdin.flush()
        next_at += 1 / EDITS_PER_SECOND
        time.sleep(max(0, next_at - time.monotonic()))
    session.stdin.close()
    session.wait()


def merge_and_list(bench):
    bench.sql("SELECT merge_facilities((SELECT id FROM bench_ids WHERE n = 1), (SELECT id FROM bench_ids WHERE n = 2))")
    bench.sql("UPDATE api_source SET is_active = false, updated_at = now() WHERE facility_list_id = 1")
    bench.sql("UPDATE api_facilitymatch SET is_active = false WHERE facility_list_item_id IN (SELECT id FROM api_facilitylistitem WHERE source_id = 9)")


def beside(bench, client, what, writes):
    """Probes while something writes, and until it has ended: when that was."""
    writing = threading.Thread(target=writes)
    writing.start()
    took = []
    while writing.is_alive():
        took.extend(probes(bench, client, 1))
        time.sleep(max(0, 1 / PROBES_PER_SECOND - took[-1]))
    writing.join()
    ended, took = time.monotonic(), sorted(took)
    bench.row(f"day of writers, {what}: commit to answer", f"{took[len(took) // 2]:.2f} s", zooms="",
              ratio=f"p95 {took[min(len(took) - 1, math.ceil(len(took) * 0.95) - 1)]:.2f} s, at most {took[-1]:.2f} s, {len(took)} probes")
    return ended


NUMBERS = iter(range(200_000, 1_000_000))


def probes(bench, client, count):
    """A facility comes to a list that nobody has: the seconds until a filtered tile of hexagons shows it, each."""
    took = []
    for _ in range(count):
        wanted = next(NUMBERS)
        row = f"(SELECT id FROM bench_ids WHERE n = {3 + wanted * 7919 % (bench.count - 3)})"
        place = bench.sql(f"SELECT ST_X(location), ST_Y(location) FROM api_facilityindex WHERE id = {row}")
        tile = "/facilitygrid" + path(6, tuple(map(float, place.split("|"))))
        # The tile under this filter is kept, and has to be evicted.
        client.asks(tile, f"lists={wanted}")
        bench.sql(f"UPDATE api_facilityindex SET lists = lists || {wanted} WHERE id = {row}")
        begun = time.monotonic()
        while not client.shows(tile, f"lists={wanted}"):
            if time.monotonic() - begun > PATIENCE_SECONDS:
                fail("an edit is not shown")
            time.sleep(0.02)
        took.append(time.monotonic() - begun)
    return took


def settles(bench, config):
    """Waits until the targets have seen all changes."""
    begun = time.monotonic()
    while True:
        done = subprocess.run([bench.oar_tiles, "reseed", "--config", config, "--database-url", bench.url, "--dry-run"], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.count("nothing to do") == 2:
            bench.row("day of writers, until the stored tiles are as the rows", f"{time.monotonic() - begun:.1f} s", zooms="")
            return
        if time.monotonic() - begun > PATIENCE_SECONDS:
            fail(f"the targets are behind: {done.stdout}{done.stderr}")
        time.sleep(1)


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
