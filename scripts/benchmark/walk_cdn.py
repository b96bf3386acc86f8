"""What a CDN in front keeps of a walk over the map of Open Supply Hub after edits: a real Varnish that is purged by the tags of the tiles in which an edit shows. In
the application's way each edit changes the key that is part of every address."""

import collections
import itertools
import multiprocessing
import re
import threading
import time
import urllib.request
from pathlib import Path

from .bench import fail
from .filters import Client, path
from .purge import PATIENCE_SECONDS, free_port, varnish, varnishd
from .serve import with_admin

# Each number of edits is committed, the cache is purged, and all addresses are asked for.
EDITS = [1, 1, 100]
# Caches keep some filtered tiles this long, and no purge reaches them; in that time the last purge is sent again, too.
SHORT_LIVED_SECONDS = 6.5
# Lists of edited facilities.
FIRST_LIST = 500_000
PROCESSES, THREADS = 2, 8
BANDS = [(2, 4), (6, 6), (9, 11), (12, 14)]
# What its clients put in the place of the key.
KEY = """SELECT floor(extract(epoch FROM max(updated_at))) || '-' || (SELECT version FROM api_version WHERE name = 'tile_version') FROM api_facility"""


def measure(bench, config, places, addresses):
    """`addresses` has zoom, path and query of each tile that the walk asks for; `config` is that of seeded targets."""
    if varnishd() is None:
        bench.note("The walk behind Varnish was not measured: it is not installed (Debian: varnish and varnish-modules).")
        return
    port = free_port()
    with varnish(bench, port, keeps_queries=True) as cache:
        serve = '[serve]\ntag_headers = ["xkey"]\ncdn_cache_control = "max-age=86400"\ncdn_headers = ["s-maxage"]\n'
        purge = (f'\n[[purge]]\nprovider = "varnish"\nby = "tag"\nurl = "http://127.0.0.1/"\ncaches = ["http://127.0.0.1:{cache}"]\n'
                 f'token_file = "{bench.file("purge-token")}"\nrebound = "1s"\n')
        own = bench.write("walk-cdn.toml", Path(config).read_text().replace("[serve]\n", serve, 1) + purge)
        command = [bench.oar_tiles, "serve", "--config", own, "--database-url", bench.url, "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0",
                   "--trusted-proxy", "127.0.0.1", "--drain", "0s", "--writer=always"]
        with with_admin(bench, command, "walk-cdn.log") as (_, url, admin):
            keeps(url, places)
            numbers = itertools.count(1)
            # The first publication after a seed purges everything.
            edit(bench, f"http://127.0.0.1:{cache}", admin, 1, numbers)
            measured(bench, f"http://127.0.0.1:{cache}", admin, addresses, numbers)


def keeps(url, places):
    """Waits until filtered tiles of both tilesets may be kept: the server has rows in memory."""
    client, end = Client(url), time.monotonic() + 180
    for layer, zoom in [("facilitygrid", 9), ("facilities", 12)]:
        for number in itertools.count(1):
            client.asks(f"/{layer}{path(zoom, places[number % len(places)])}", f"contributors={number}")
            if "s-maxage=86400" in client.headers["cache-control"]:
                break
            if time.monotonic() > end:
                fail(f"caches may not keep filtered tiles of {layer}: {client.headers}")


def measured(bench, cache, admin, addresses, numbers):
    filters = {query for _, _, query in addresses}
    hits_of(cache, addresses)
    time.sleep(SHORT_LIVED_SECONDS)
    before = hits_of(cache, addresses)
    filtered = sum(query != "" for _, _, query in addresses)
    bench.row("walk behind Varnish, asked for again without an edit", f"{share(before):.1%} hits", zooms="",
              ratio=f"{len(addresses):,} addresses, {filtered:,} of them under {len(filters) - 1} filters; zooms {by_band(before)}")
    single = []
    for edits in EDITS:
        key = bench.sql(KEY)
        edit(bench, cache, admin, edits, numbers)
        found, has_key = hits_of(cache, addresses), bench.sql(KEY) == key
        if edits == 1:
            single.append(found)
            if len(single) < EDITS.count(1):
                continue
        most, least = (max(map(share, single)), min(map(share, single))) if edits == 1 else (share(found), share(found))
        found = sum(single, collections.Counter()) if edits == 1 else found
        of = f", the mean of {len(single)}, {least:.1%} to {most:.1%}" if edits == 1 else " within a second"
        bench.row(f"walk behind Varnish, after {edits} edit{'s' * (edits > 1)}{of}", f"{share(found):.1%} hits", zooms="",
                  ratio=f"{share(found) / share(before):.1%} of those before; zooms {by_band(found)}; the application's way: {'100' if has_key else '0'} %, by its key")


def edit(bench, cache, admin, count, numbers):
    """Commits edits of facilities: a new name or a move, and a list that nobody has. Returns when the cache shows them, and its short-lived tiles are old."""
    client, chosen = Client(cache), [next(numbers) for _ in range(count)]
    rows = [line.split("|") for line in bench.sql(
        "SELECT id, ST_X(location), ST_Y(location) FROM (SELECT *, row_number() OVER (ORDER BY md5(id)) AS n FROM api_facility) AS f "
        f"WHERE n IN ({', '.join(map(str, chosen))}) ORDER BY n").splitlines()]
    tiles = ["/facilities" + path(12, (float(x), float(y))) for _, x, y in rows]
    before = [seen(client, tile) for tile in tiles]
    # The last one's list, among the hexagons: kept by the cache, too, until it is purged.
    grid, own_list = "/facilitygrid" + path(9, (float(rows[-1][1]), float(rows[-1][2]))), f"lists={FIRST_LIST + chosen[-1]}"
    if client.shows(grid, own_list):
        fail(f"{grid}?{own_list} is not empty before the edit")
    changes = ["name = 'New ' || left(name, 190)", "location = ST_Translate(location, 0.001, 0)"]
    bench.sql("".join(f"BEGIN; UPDATE api_facility SET {changes[number % 2]}, updated_at = now() WHERE id = '{row[0]}'; "
                      f"UPDATE api_facilityindex SET lists = lists || {FIRST_LIST + number} WHERE id = '{row[0]}'; COMMIT;\n" for number, row in zip(chosen, rows)))
    begun = time.monotonic()
    while not client.shows(grid, own_list) or any(seen(client, tile) == old for tile, old in zip(tiles, before)) or waits(admin):
        if time.monotonic() - begun > PATIENCE_SECONDS:
            fail(f"edits are not in the cache's answers after {PATIENCE_SECONDS} s: {Path(bench.file('walk-cdn.log')).read_text()[-2000:]}")
        time.sleep(0.2)
    time.sleep(SHORT_LIVED_SECONDS)


def seen(client, tile):
    client.asks(tile, "")
    return client.body


def waits(admin):
    """True if changed tiles wait for their purge."""
    with urllib.request.urlopen(admin + "/metrics") as answer:
        found = re.findall(r"^oar_tiles_purge_waiting_tiles\S* (\S+)$", answer.read().decode(), re.MULTILINE)
    if not found:
        fail("/metrics does not say how many tiles wait for their purge")
    return any(float(one) != 0 for one in found)


def hits_of(cache, addresses):
    """Asks for each address once: how many answers came from the cache, and how many did not, by zoom."""
    with multiprocessing.Pool(PROCESSES) as pool:
        return sum(pool.map(a_process, [(cache, addresses[number::PROCESSES]) for number in range(PROCESSES)]), collections.Counter())


def a_process(arguments):
    cache, addresses = arguments
    counts, errors = [], []

    def asks(own):
        client, hits = Client(cache), collections.Counter()
        try:
            for zoom, tile, query in own:
                client.asks(tile, query)
                hits[zoom, client.headers["x-cache"] == "hit"] += 1
        except Exception as error:  # raised below
            errors.append(error)
        counts.append(hits)

    threads = [threading.Thread(target=asks, args=[addresses[number::THREADS]]) for number in range(THREADS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if errors:
        raise errors[0]
    return sum(counts, collections.Counter())


def share(hits, zooms=range(23)):
    return sum(hits[zoom, True] for zoom in zooms) / max(1, sum(hits[zoom, hit] for zoom in zooms for hit in (True, False)))


def by_band(hits):
    return ", ".join(f"{low}-{high}: {share(hits, range(low, high + 1)):.0%}" for low, high in BANDS)
