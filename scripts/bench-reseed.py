"""Measures `oar-tiles reseed` for scripts/bench --reseed, which sets the environment: side by side with the seed of the same
zooms, in one run, on one private database. Appends rows to the file named on the command line."""
import json, random, re, shutil, sqlite3, statistics, subprocess, sys, time

from bench_shared import count, env, files, oar_tiles, row, runs, sql, url, workers, write

chance = random.Random(5)


def timed(*arguments):
    """Runs oar-tiles: seconds on the clock from start to end, and what it printed."""
    start = time.monotonic()
    done = subprocess.run([oar_tiles, *arguments, "--database-url", url, "--workers", workers, "--progress", "none"],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    if done.returncode:
        sys.exit(f"scripts/bench: oar-tiles {arguments[0]} failed: {done.stderr}")
    return seconds, done.stdout


def some(n):
    """So many facilities, by chance."""
    return ",".join(f"'{key}'" for key in chance.sample(keys, n))


def spread(values):
    return f"{statistics.median(values):.0f} x faster ({', '.join(f'{value:.0f}' for value in sorted(values))})"


subprocess.run([oar_tiles, "track", "install", "--database-url", url], check=True, stdout=subprocess.DEVNULL)
keys = sql("SELECT id FROM api_facility ORDER BY id").split("\n")
base, target = f"{files}/base.mbtiles", f"{files}/r.mbtiles"
report = f"{files}/reseed.json"

# Nothing changed.
timed("seed", "--zoom", "0-14", "--output", base)
nothing = [timed("reseed", "--output", base)[0] for _ in range(max(5, runs))]
row("0-14", "reseed, nothing changed", f"{statistics.median(nothing) * 1e3:.0f} ms", "0", f"at most {max(nothing) * 1e3:.0f} ms")

# A few changes: a facility moves by some hundred metres, as a better geocoding moves it. Every dirty tile is packed anew, so what
# share of all bytes they hold says how much faster than a seed a reseed could be that did nothing else.
for changed, repeats in [(1, 5 * runs), (100, 2 * runs), (1000, runs)]:
    seeds, reseeds, ratios, tiles, shares = [], [], [], [], []
    for turn in range(repeats):
        if turn % max(1, repeats // runs) == 0:
            seed_seconds, _ = timed("seed", "--zoom", "8-14", "--output", base)
            seeds.append(seed_seconds)
            with sqlite3.connect(base) as archive:
                (stored,) = archive.execute("SELECT sum(length(tile_data)) FROM tiles").fetchone()
        shutil.copy(base, target)
        sql(f"UPDATE api_facility SET location = ST_Translate(location, 0.004, 0.003) WHERE id IN ({some(changed)})")
        seconds, _ = timed("reseed", "--output", target, "--report", report)
        told = json.load(open(report))
        shutil.copy(target, base)
        reseeds.append(seconds)
        tiles.append(told["dirty"])
        shares.append(told["bytes"] / stored)
        ratios.append(seeds[-1] / seconds)
    row("8-14", f"reseed, {changed:,} changed", f"{statistics.median(reseeds) * 1e3:.0f} ms",
        f"{statistics.median(tiles):,.0f}", f"{spread(ratios)}; {statistics.median(shares) * 100:.1f} % of the bytes")
    row("8-14", "  beside: seed", f"{statistics.median(seeds):.2f} s", "", "")

# Nearly a third of the table is geocoded anew. The seed beside it reads the same table, in turns before and after: an update
# of so many rows leaves the table larger, and whoever reads it first tidies up.
ratios, seeds, reseeds = [], [], []


def seed_beside():
    seeds.append(timed("seed", "--zoom", "8-14", "--output", f"{files}/beside.mbtiles")[0])


timed("seed", "--zoom", "8-14", "--output", base)
for turn in range(max(4, runs)):
    sql("UPDATE api_facility SET location = ST_Translate(location, 0.004, 0.003) WHERE hashtext(id) & 1023 < 307")
    if turn % 2:
        seed_beside()
    reseeds.append(timed("reseed", "--output", base)[0])
    if not turn % 2:
        seed_beside()
    ratios.append(reseeds[-1] / seeds[-1])
row("8-14", "reseed, 30 % moved", f"{statistics.median(reseeds):.2f} s", "",
    f"{statistics.median(ratios):.2f} x seed ({', '.join(f'{ratio:.2f}' for ratio in ratios)})")

# What the triggers cost: the same table without them beside it, in turns.
sql("CREATE TABLE bench_ids AS SELECT (row_number() OVER (ORDER BY md5(id)))::int AS n, id FROM api_facility; "
    "ALTER TABLE bench_ids ADD PRIMARY KEY (n); CREATE TABLE bench_plain (LIKE api_facility INCLUDING ALL); "
    "INSERT INTO bench_plain SELECT * FROM api_facility; VACUUM ANALYZE bench_ids")
sql("VACUUM (FULL, ANALYZE) api_facility")
sql("VACUUM (FULL, ANALYZE) bench_plain")
pgbench = f"{env['pg_bindir']}/pgbench"
one = {"bench_plain": [], "api_facility": []}
for turn in range(max(5, runs)):
    for table in one:
        with open(f"{files}/one.sql", "w") as script:
            script.write(f"\\set n random(1, {count})\n"
                         f"UPDATE {table} SET name = 'n' || :n WHERE id = (SELECT id FROM bench_ids WHERE n = :n);\n")
        done = subprocess.run([pgbench, "-n", "-M", "prepared", "-c", "1", "-t", "1000", "-f", f"{files}/one.sql", url],
                              capture_output=True, text=True)
        found = re.search(r"latency average = ([0-9.]+) ms", done.stdout)
        if not found:
            sys.exit(f"scripts/bench: pgbench failed: {done.stderr}")
        one[table].append(float(found.group(1)))
plain, noted = (statistics.median(times) for times in one.values())
added = [b - a for a, b in zip(*one.values())]
row("", "one-row update with triggers", f"{noted:.3f} ms", "",
    f"{statistics.median(added):+.3f} ms ({', '.join(f'{value:+.3f}' for value in added)})")

bulk = {"bench_plain": [], "api_facility": []}
for turn in range(max(7, runs)):
    for table in bulk:
        sql("CHECKPOINT")
        begin = turn * 10_000 % max(count - 10_000, 1)
        found = subprocess.run(
            ["psql", "-XAtq", "-d", url], capture_output=True, text=True, input="\\timing on\n"
            f"UPDATE {table} SET name = name || '.' WHERE id IN (SELECT id FROM bench_ids WHERE n > {begin} AND n <= {begin} + 10000);\n")
        bulk[table].append(float(re.search(r"Time: ([0-9.]+) ms", found.stdout).group(1)))
    sql("VACUUM api_facility; ")
    sql("VACUUM bench_plain")
ratios = [b / a for a, b in zip(*bulk.values())]
row("", "update of 10,000 rows with triggers", f"{statistics.median(bulk['api_facility']):.0f} ms", "",
    f"{(statistics.median(ratios) - 1) * 100:+.0f} % ({', '.join(f'{(ratio - 1) * 100:+.0f}' for ratio in ratios)})")

# The same by the database's own clock, in one statement: free of what the disk does from one statement to the next.
shares = []
for turn in range(max(9, runs)):
    begin = turn * 10_000 % max(count - 10_000, 1)
    told = json.loads(sql(
        "EXPLAIN (ANALYZE, FORMAT JSON) UPDATE api_facility SET name = name || '.' "
        f"WHERE id IN (SELECT id FROM bench_ids WHERE n > {begin} AND n <= {begin} + 10000)"))[0]
    trigger = sum(one["Time"] for one in told["Triggers"])
    shares.append(trigger / (told["Execution Time"] - trigger))
    sql("VACUUM api_facility")
row("", "  the trigger beside the rest of it", "", "",
    f"{statistics.median(shares) * 100:+.0f} % ({', '.join(f'{share * 100:+.0f}' for share in shares)})")

# --watch: from the commit of one edit to the line that says that the target holds it.
timed("seed", "--zoom", "8-14", "--output", target)
watch = subprocess.Popen(
    [oar_tiles, "reseed", "--watch", "--debounce", "200ms", "--output", target, "--database-url", url, "--progress", "none"],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
time.sleep(1)
waited = []
for _ in range(20 * runs):
    sql(f"UPDATE api_facility SET name = name || '~' WHERE id IN ({some(1)})")
    start = time.monotonic()
    while "dirty tile" not in watch.stdout.readline():
        pass
    waited.append(time.monotonic() - start)
watch.terminate()
if watch.wait() != 0:
    sys.exit(f"scripts/bench: reseed --watch ended with {watch.returncode}: {watch.stderr.read()}")
waited.sort()
row("8-14", "reseed --watch, one edit to durable", f"{statistics.median(waited) * 1e3:.0f} ms", "",
    f"p95 {waited[int(len(waited) * 0.95) - 1] * 1e3:.0f} ms, 200 ms of it gathering")

write(sys.argv[1])
