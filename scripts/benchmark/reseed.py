"""`oar-tiles reseed` beside the seed of the same zooms; what the triggers cost; `--watch`."""

import json
import random
import re
import shutil
import sqlite3
import subprocess
import time

from .bench import fail, listed, median

MOVE = "UPDATE api_facility SET location = ST_Translate(location, 0.004, 0.003)"


def measure(bench):
    bench.install_triggers()
    chance = random.Random(5)
    keys = bench.sql("SELECT id FROM api_facility ORDER BY id").split("\n")

    def some(n):
        """`n` facilities, chosen at random."""
        return ",".join(f"'{key}'" for key in chance.sample(keys, min(n, len(keys))))

    nothing_changed(bench)
    few_changes(bench, some)
    many_changes(bench)
    triggers(bench)
    watch(bench, some)


def nothing_changed(bench):
    base = bench.file("all.mbtiles")
    bench.timed("seed", "--zoom", "0-14", "--output", base)
    times = [bench.timed("reseed", "--output", base)[0] for _ in range(max(5, bench.runs))]
    bench.row("reseed, nothing changed", f"{median(times) * 1e3:.0f} ms", tiles="0", ratio=f"at most {max(times) * 1e3:.0f} ms", zooms="0-14")


def few_changes(bench, some):
    """A facility moves by some hundred metres, as a better geocoding moves it. Every dirty tile is compressed anew, so the share of all
    bytes that they hold bounds how much faster than a seed a reseed can be."""
    base, target = bench.file("base.mbtiles"), bench.file("r.mbtiles")
    for changed, repeats in [(1, 5 * bench.runs), (100, 2 * bench.runs), (1000, bench.runs)]:
        seeds, reseeds, ratios, tiles, shares = [], [], [], [], []
        for turn in range(repeats):
            if turn % max(1, repeats // bench.runs) == 0:
                seeds.append(bench.timed("seed", "--zoom", "8-14", "--output", base)[0])
                with sqlite3.connect(base) as archive:
                    (stored,) = archive.execute("SELECT sum(length(tile_data)) FROM tiles").fetchone()
            shutil.copy(base, target)
            bench.sql(f"{MOVE} WHERE id IN ({some(changed)})")
            seconds, told = bench.timed("reseed", "--output", target)
            shutil.copy(target, base)
            reseeds.append(seconds)
            tiles.append(told["dirty"])
            shares.append(told["bytes"] / stored)
            ratios.append(seeds[-1] / seconds)
        bench.row(f"reseed, {changed:,} changed", f"{median(reseeds) * 1e3:.0f} ms", tiles=f"{median(tiles):,.0f}", zooms="8-14",
                  ratio=f"{median(ratios):.0f} x faster ({listed(sorted(ratios), '.0f')}); {median(shares) * 100:.1f} % of the bytes")
        bench.row("  beside: seed", f"{median(seeds):.2f} s", zooms="8-14")


def many_changes(bench):
    """Nearly a third of the table is geocoded anew. The seed beside it reads the same table, in turns before and after: an update of
    so many rows leaves the table larger, and who reads it first cleans it up."""
    base, beside = bench.file("base.mbtiles"), bench.file("beside.mbtiles")
    ratios, seeds, reseeds = [], [], []
    bench.timed("seed", "--zoom", "8-14", "--output", base)
    for turn in range(max(4, bench.runs)):
        bench.sql(f"{MOVE} WHERE hashtext(id) & 1023 < 307")
        if turn % 2:
            seeds.append(bench.timed("seed", "--zoom", "8-14", "--output", beside)[0])
        reseeds.append(bench.timed("reseed", "--output", base)[0])
        if not turn % 2:
            seeds.append(bench.timed("seed", "--zoom", "8-14", "--output", beside)[0])
        ratios.append(reseeds[-1] / seeds[-1])
    bench.row("reseed, 30 % moved", f"{median(reseeds):.2f} s", zooms="8-14", ratio=f"{median(ratios):.2f} x seed ({listed(ratios)})")


def triggers(bench):
    """What the triggers cost: the same table without them beside it, in turns."""
    bench.sql("CREATE TABLE bench_ids AS SELECT (row_number() OVER (ORDER BY md5(id)))::int AS n, id FROM api_facility; "
              "ALTER TABLE bench_ids ADD PRIMARY KEY (n); CREATE TABLE bench_plain (LIKE api_facility INCLUDING ALL); "
              "INSERT INTO bench_plain SELECT * FROM api_facility; VACUUM ANALYZE bench_ids")
    bench.sql("VACUUM (FULL, ANALYZE) api_facility")
    bench.sql("VACUUM (FULL, ANALYZE) bench_plain")
    one_row_updates(bench)
    large_updates(bench)
    trigger_share(bench)


def one_row_updates(bench):
    times = {"bench_plain": [], "api_facility": []}
    for _ in range(max(5, bench.runs)):
        for table, own in times.items():
            script = bench.write("one.sql", f"\\set n random(1, {bench.count})\n"
                                 f"UPDATE {table} SET name = 'n' || :n WHERE id = (SELECT id FROM bench_ids WHERE n = :n);\n")
            done = subprocess.run([f"{bench.pg_bindir}/pgbench", "-n", "-M", "prepared", "-c", "1", "-t", "1000", "-f", script, bench.url],
                                  capture_output=True, text=True)
            found = re.search(r"latency average = ([0-9.]+) ms", done.stdout)
            if not found:
                fail(f"pgbench failed: {done.stderr}")
            own.append(float(found.group(1)))
    added = [b - a for a, b in zip(*times.values())]
    bench.row("one-row update with triggers", f"{median(times['api_facility']):.3f} ms", zooms="",
              ratio=f"{median(added):+.3f} ms ({listed(added, '+.3f')})")


def large_updates(bench):
    times = {"bench_plain": [], "api_facility": []}
    for turn in range(max(7, bench.runs)):
        for table, own in times.items():
            bench.sql("CHECKPOINT")
            begin = turn * 10_000 % max(bench.count - 10_000, 1)
            printed = bench.psql(input="\\timing on\n"
                                 f"UPDATE {table} SET name = name || '.' WHERE id IN (SELECT id FROM bench_ids WHERE n > {begin} AND n <= {begin} + 10000);\n")
            own.append(float(re.search(r"Time: ([0-9.]+) ms", printed).group(1)))
        bench.sql("VACUUM api_facility")
        bench.sql("VACUUM bench_plain")
    more = [(b / a - 1) * 100 for a, b in zip(*times.values())]
    bench.row("update of 10,000 rows with triggers", f"{median(times['api_facility']):.0f} ms", zooms="",
              ratio=f"{median(more):+.0f} % ({listed(more, '+.0f')})")


def trigger_share(bench):
    """The same by the database's own clock, in one statement: free of what the disk does from one statement to the next."""
    shares = []
    for turn in range(max(9, bench.runs)):
        begin = turn * 10_000 % max(bench.count - 10_000, 1)
        told = json.loads(bench.sql(
            "EXPLAIN (ANALYZE, FORMAT JSON) UPDATE api_facility SET name = name || '.' "
            f"WHERE id IN (SELECT id FROM bench_ids WHERE n > {begin} AND n <= {begin} + 10000)"))[0]
        trigger = sum(one["Time"] for one in told["Triggers"])
        shares.append(trigger / (told["Execution Time"] - trigger) * 100)
        bench.sql("VACUUM api_facility")
    bench.row("  the trigger beside the rest of it", "", zooms="", ratio=f"{median(shares):+.0f} % ({listed(shares, '+.0f')})")


def watch(bench, some):
    """--watch: from the commit of one edit to the line that says that the target holds it."""
    target = bench.file("r.mbtiles")
    bench.timed("seed", "--zoom", "8-14", "--output", target)
    watching = subprocess.Popen([*bench.command("reseed"), "--watch", "--debounce", "200ms", "--output", target],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while "follows the change log" not in (line := watching.stderr.readline()):
        if not line:
            fail(f"reseed --watch ended with {watching.wait()}.")
    waited = []
    for _ in range(20 * bench.runs):
        bench.sql(f"UPDATE api_facility SET name = name || '~' WHERE id IN ({some(1)})")
        start = time.monotonic()
        while " published " not in (line := watching.stderr.readline()):
            # An empty line is the end of what it says.
            if not line:
                fail(f"reseed --watch ended with {watching.wait()}.")
        waited.append(time.monotonic() - start)
    watching.terminate()
    watching.wait()
    waited.sort()
    bench.row("reseed --watch, one edit to durable", f"{median(waited) * 1e3:.0f} ms", zooms="8-14",
              ratio=f"p95 {waited[int(len(waited) * 0.95) - 1] * 1e3:.0f} ms, 200 ms of it debounce")
