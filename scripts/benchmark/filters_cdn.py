"""Filtered tiles in a real Varnish that is purged by tags, while rows are edited: how many answers come from the cache, and how old they are."""

import collections
import multiprocessing
import random
import subprocess
import threading
import time
from pathlib import Path

from . import filters
from .bench import fail
from .purge import free_port, varnish, varnishd
from .serve import with_admin

# The first seconds fill the cache, and do not count.
WARM_SECONDS, SECONDS, REQUESTS, EDITS = 20, 30, 500, 100
# Who uses a filter looks at some places through all zooms.
FILTERS, PLACES_OF_FILTER, ZOOMS = 200, 2, range(3, 13)
PROCESSES, THREADS = 4, 8


def measure(bench, settings, target, places):
    """`settings` is the configuration of a seeded target."""
    if varnishd() is None:
        bench.note("Filtered tiles behind Varnish were not measured: it is not installed (Debian: varnish and varnish-modules).")
        return
    port = free_port()
    with varnish(bench, port, keeps_queries=True) as cache:
        purge = (f'[[purge]]\nprovider = "varnish"\nby = "tag"\nurl = "http://127.0.0.1/"\ncaches = ["http://127.0.0.1:{cache}"]\n'
                 f'token_file = "{bench.file("purge-token")}"\nrebound = "1s"\n')
        serve = '[serve]\ntag_headers = ["xkey"]\ncdn_cache_control = "max-age=86400"\ncdn_headers = ["s-maxage"]\n'
        own = bench.write("filters-cdn.toml", Path(settings).read_text().replace("[serve]\n", serve) + purge)
        command = ["taskset", "-c", "0", bench.oar_tiles, "serve", target, "--config", own, "--database-url", bench.url, "--listen", f"127.0.0.1:{port}",
                   "--admin", "127.0.0.1:0", "--trusted-proxy", "127.0.0.1", "--drain", "0s", "--writer=always"]
        with with_admin(bench, command, "filters-cdn.log") as (process, url, admin):
            server = filters.Filtered(process, url, admin)
            is_kept(server, places)
            # The first publication reads all rows, and purges everything.
            bench.sql("UPDATE index_rows SET lists = lists || 1 WHERE id = (SELECT min(id) FROM index_rows)")
            time.sleep(5)
            measured(bench, f"http://127.0.0.1:{cache}", places)


def is_kept(server, places):
    """Waits until caches may keep filtered tiles."""
    client, chance, end = filters.Client(server.url), random.Random(3), time.monotonic() + 180
    while time.monotonic() < end:
        client.asks(filters.path(5, places[0]), "countries=BD")
        if "s-maxage=86400" in client.headers["cache-control"]:
            return
        client.asks(filters.path(chance.choice([13, 14]), chance.choice(places)), f"v={chance.random()}")
    fail(f"caches may not keep filtered tiles: {client.headers}")


def measured(bench, cache, places):
    ids = bench.sql("SELECT id FROM index_rows ORDER BY hashtext(id), id LIMIT 20000").splitlines()
    done = threading.Event()
    editing = threading.Thread(target=edits, args=[bench, ids[FILTERS:], done])
    filling, ages = [], []
    looking = threading.Thread(target=sentinels, args=[bench, cache, ids[:FILTERS], done, filling, ages])
    editing.start()
    looking.start()
    try:
        with multiprocessing.Pool(PROCESSES) as pool:
            found = pool.map(a_process, [(cache, places, number) for number in range(PROCESSES)])
    finally:
        done.set()
        editing.join()
        looking.join()
    hits = sum((one for one, _ in found), collections.Counter())
    errors = sum((errors for _, errors in found), [])
    asked = sum(count for (_, _), count in hits.items())
    share = lambda zooms: sum(hits[zoom, True] for zoom in zooms) / max(1, sum(hits[zoom, hit] for zoom in zooms for hit in (True, False)))
    by_band = ", ".join(f"{zooms[0]}-{zooms[-1]}: {share(zooms):.0%}" for zooms in [(3, 4), (5, 6, 7, 8), (9, 10, 11), (12,)])
    bench.row(f"filters behind Varnish, {asked / SECONDS:.0f} requests and {EDITS} edits a second", f"{share(ZOOMS):.0%} hits",
              ratio=f"zooms {by_band}; commit to the cache's answer {max(ages, default=0):.2f} s at most of {len(ages)}, "
                    f"{max(filling, default=0):.2f} s while it is filled; debounce {filters.DEBOUNCE}; {len(errors)} errors")


def edits(bench, ids, done):
    """Commits at an even pace: a row goes to another list, or moves a little."""
    command, env = bench.psql_command()
    chance, begun = random.Random(5), time.monotonic()
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, text=True) as psql:
        number = 0
        while not done.wait(max(0, begun + number / EDITS - time.monotonic())):
            change = f"lists = '{{{chance.randint(1, 30000)}}}'" if number % 2 else "location = ST_Translate(location, 0.001, 0)"
            psql.stdin.write(f"UPDATE index_rows SET {change} WHERE id = '{chance.choice(ids)}';\n")
            psql.stdin.flush()
            number += 1
        psql.stdin.close()


def sentinels(bench, cache, ids, done, filling, ages):
    """How long after a commit the cache shows it: a facility comes to a list that nobody has."""
    client, filled = filters.Client(cache), time.monotonic() + WARM_SECONDS
    for number, row in enumerate(ids):
        if done.wait(0.5):
            return
        wanted = 300000 + number
        place = tuple(map(float, bench.sql(f"SELECT ST_X(location), ST_Y(location) FROM index_rows WHERE id = '{row}'").split("|")))
        tile, query = filters.path(12, place), f"lists={wanted}"
        client.asks(tile, query)
        bench.sql(f"UPDATE index_rows SET lists = '{{{wanted}}}' WHERE id = '{row}'")
        begun = time.monotonic()
        while not client.shows(tile, query) and time.monotonic() - begun < 30:
            time.sleep(0.02)
        (filling if begun < filled else ages).append(time.monotonic() - begun)


def a_process(arguments):
    url, places, seed = arguments
    queries = [filters.facets(random.Random(80_000 + number)) for number in range(FILTERS)]
    weights = [1 / (1 + number) for number in range(FILTERS)]
    hits, errors, lock = collections.Counter(), [], threading.Lock()

    def asks(number):
        chance, client, begun = random.Random(seed * 1000 + number), filters.Client(url), time.monotonic()
        every = PROCESSES * THREADS / REQUESTS
        step = chance.random()
        while time.monotonic() - begun < WARM_SECONDS + SECONDS:
            time.sleep(max(0, begun + step * every - time.monotonic()))
            step += 1
            zoom, number_of_filter = chance.choice(ZOOMS), chance.choices(range(FILTERS), weights)[0]
            place = places[number_of_filter * PLACES_OF_FILTER + chance.randrange(PLACES_OF_FILTER)]
            try:
                client.asks(filters.path(zoom, place), queries[number_of_filter])
                is_hit = client.headers.get("x-cache", "").lower() == "hit"
                if time.monotonic() - begun > WARM_SECONDS:
                    with lock:
                        hits[zoom, is_hit] += 1
            except Exception as error:  # said in the row
                errors.append(str(error))

    threads = [threading.Thread(target=asks, args=[number]) for number in range(THREADS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    return hits, errors
