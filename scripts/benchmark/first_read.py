"""How soon a server keeps the rows of Open Supply Hub's facilities (scripts/open-supply-hub, wide rows): the first read beside a COPY of the same columns on one
connection, which is what the server uses, and a restart, which takes the rows from the file beside the target."""

import json
import random
import shutil
import subprocess
import time
import urllib.request

from . import open_supply_hub
from .bench import fail, listed, median
from .serve import with_admin

WIDTH = 5000
COLUMNS = ["id", "name", "address", "country_code", "contributors_count"]
LAYER = """[tileset]
name = "first-read"
output = "{output}"
zoom = "0"
[run]
rows_mb = 2000
[[layer]]
name = "facilities"
table = "api_facilityindex"
properties = {columns}
"""
# The zoom of the tiles that are asked for; the pause between two looks at the server, and how long it may take, in seconds.
ZOOM, PAUSE, LIMIT = 14, 0.02, 600


def measure(bench):
    open_supply_hub.fill(bench, WIDTH)
    target = bench.file("first-read.mbtiles")
    config = bench.write("first-read.toml", LAYER.format(output=target, columns=json.dumps(COLUMNS)))
    bench.install_triggers("--config", config)
    subprocess.run([*bench.command("seed"), "--config", config], check=True, stdout=subprocess.DEVNULL)
    copies, reads, restarts = [], [], []
    for _ in range(bench.runs):
        copies.append(copied(bench))
        for seconds in (reads, restarts):
            seconds.append(kept(bench, config, is_first=seconds is reads))
    ratios = listed(read / copy for read, copy in zip(reads, copies))
    bench.row("COPY of five columns, binary, one connection", f"{median(copies):.2f} s", zooms="")
    bench.row("first read of live rows", f"{median(reads):.2f} s", ratio=ratios, zooms="")
    bench.row("restart of the server, until its rows are there", f"{median(restarts):.2f} s", zooms="")


def copied(bench):
    command, env = bench.psql_command("-c", f"COPY (SELECT ST_AsBinary(location), {', '.join(COLUMNS)} FROM api_facilityindex) TO STDOUT (FORMAT binary)")
    begun = time.monotonic()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def kept(bench, config, is_first):
    """Starts a server, and ends it once its rows are there and saved: the seconds since the read began, or since the program started."""
    if is_first:
        shutil.rmtree(bench.file(".first-read.mbtiles.oar-tiles"), ignore_errors=True)
    command = [bench.oar_tiles, "serve", "--config", config, "--live", "--database-url", bench.url, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--drain", "0s"]
    chance, begun = random.Random(7), time.monotonic()
    with with_admin(bench, command, "first-read.log") as (_, url, admin):
        if is_first:
            def ask():
                x, y = (chance.randrange(2**ZOOM) for _ in range(2))
                urllib.request.urlopen(f"{url}/{ZOOM}/{x}/{y}.pbf").close()
            awaited(admin, lambda rows: rows["being_read"] or rows["rows"], ask)
            begun = time.monotonic()
        rows = awaited(admin, lambda rows: rows["rows"])
        took = time.monotonic() - begun
        if (rows["reads"], rows["loads"]) != (int(is_first), int(not is_first)):
            fail(f"the rows are not from where they should be: {rows}")
        if is_first:
            awaited(admin, lambda rows: rows["saved_seconds"] is not None)
        return took


def awaited(admin, is_so, meanwhile=lambda: time.sleep(PAUSE)):
    """What the server says of its rows once it says this."""
    begun = time.monotonic()
    while not is_so(rows := rows_of(admin)):
        if time.monotonic() - begun > LIMIT:
            fail(f"the server does not come to it: {rows}")
        meanwhile()
    return rows


def rows_of(admin):
    with urllib.request.urlopen(f"{admin}/status.json") as status:
        return json.load(status)["live_rows"]
