"""Functions of tiles: a cheap one beside martin-cp on the same tiles, and one that takes 50 ms a tile beside its own time on as many connections."""

import shutil
import threading
import time

from .bench import listed, median, remove, tiles_in

# Every tile of these zooms: 21,845 and 341.
CHEAP_ZOOMS = 7
SLOW_ZOOMS = 4
SLOW_SECONDS = 0.05

FUNCTIONS = f"""
-- One feature in each tile.
CREATE OR REPLACE FUNCTION bench_cheap(z integer, x integer, y integer) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT ST_AsMVT(t, 'bench_cheap') FROM (SELECT z, x, y, ST_AsMVTGeom(ST_Centroid(ST_TileEnvelope(z, x, y)), ST_TileEnvelope(z, x, y)) AS geom) AS t $$;
CREATE OR REPLACE FUNCTION bench_slow(z integer, x integer, y integer) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT bench_cheap(z, x, y) FROM pg_sleep({SLOW_SECONDS}) $$;
"""


def measure(bench):
    bench.sql("CREATE EXTENSION IF NOT EXISTS postgis")
    bench.sql(FUNCTIONS)
    cheap(bench)
    slow(bench)


def config(bench, function, zooms):
    file = bench.file(f"{function}.mbtiles")
    text = f'[tileset]\nzoom = "0-{zooms}"\noutput = "{file}"\n[[layer]]\nname = "{function}"\nfunction = "{function}"\n'
    return bench.write(f"{function}.toml", text), file


def cheap(bench):
    """Both write every tile of the zooms into an MBTiles archive, in turns."""
    path, file = config(bench, "bench_cheap", CHEAP_ZOOMS)
    other, zooms = bench.file("martin-functions.mbtiles"), f"0-{CHEAP_ZOOMS}"
    has_peer = shutil.which("martin-cp")
    of_seed, pairs, tiles = [], [], 0
    for _ in range(bench.runs):
        seconds, _ = bench.timed("seed", "--config", path, "--force")
        of_seed.append(seconds)
        tiles = tiles_in(file)
        if not has_peer:
            continue
        theirs, _ = bench.measured(
            ["martin-cp", "--output-file", other, "--mbtiles-type", "flat", "--min-zoom", "0", "--max-zoom", str(CHEAP_ZOOMS),
             "--concurrency", bench.workers, "--pool-size", bench.workers, "--source", "bench_cheap", bench.url], bench.options.peer_limit)
        if theirs is not None:
            assert tiles_in(other) == tiles, f"martin-cp wrote {tiles_in(other)} tiles, and not {tiles}"
            pairs.append((theirs, seconds))
        remove(other)
    bench.row("seed of a cheap function", f"{median(of_seed):.2f} s", tiles=f"{tiles:,}", zooms=zooms)
    if pairs:
        ratios = [theirs / ours for theirs, ours in pairs]
        bench.row("martin-cp of the same", f"{median(pair[0] for pair in pairs):.2f} s", tiles=f"{tiles:,}", zooms=zooms,
                  ratio=f"{median(ratios):.1f} x seed ({listed(ratios, '.1f')}; wanted: 5)")
    elif has_peer:
        bench.row("martin-cp of the same", f"> {bench.options.peer_limit} s", "", "stopped", zooms=zooms)
    else:
        bench.note("martin-cp is not on the PATH: skipped.")


def slow(bench):
    """The calls alone, each connection every nth of them, and the seed, in turns."""
    path, _ = config(bench, "bench_slow", SLOW_ZOOMS)
    zooms = f"0-{SLOW_ZOOMS}"
    pairs = []
    for _ in range(bench.runs):
        alone = calls(bench)
        seconds, _ = bench.timed("seed", "--config", path, "--force")
        pairs.append((seconds, alone))
    ratios = [seconds / alone for seconds, alone in pairs]
    bench.row(f"calls of a function of {SLOW_SECONDS * 1e3:.0f} ms", f"{median(pair[1] for pair in pairs):.2f} s", zooms=zooms)
    bench.row("seed of it", f"{median(pair[0] for pair in pairs):.2f} s", zooms=zooms,
              ratio=f"{median(ratios):.2f} x the calls ({listed(ratios)}; wanted: 1.05)")


def calls(bench):
    """Seconds in which as many connections as there are workers call the function for every tile."""
    workers = int(bench.workers)
    of_one = ("SELECT sum(length(bench_slow(z, x, y))) FROM (SELECT z, x, y, row_number() OVER () AS n FROM "
              f"generate_series(0, {SLOW_ZOOMS}) AS z, LATERAL generate_series(0, (1 << z) - 1) AS x, LATERAL generate_series(0, (1 << z) - 1) AS y) AS t "
              f"WHERE n % {workers} = ")
    threads = [threading.Thread(target=bench.sql, args=(of_one + str(number),)) for number in range(workers)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begun
