"""Measures layers of cells for scripts/bench --cells, which sets the environment: beside plain zooms of the same data, in turns, in
one run, on one private database. Appends rows to the file named on the command line."""
import json, random, statistics, subprocess, sys, time

from bench_shared import env, files, oar_tiles, row, runs, sql, url, workers, write

chance = random.Random(7)


def timed(verb, config, output, *more):
    """Runs oar-tiles: seconds on the clock from start to end, and its report."""
    report = f"{files}/cells.json"
    start = time.monotonic()
    done = subprocess.run([oar_tiles, verb, "--config", config, "--output", output, "--database-url", url, "--workers", workers,
                           "--progress", "none", "--report", report, *more], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    seconds = time.monotonic() - start
    if done.returncode:
        sys.exit(f"scripts/bench: oar-tiles {verb} failed: {done.stderr}")
    return seconds, json.load(open(report))


def config(name, *layers):
    path = f"{files}/{name}.toml"
    with open(path, "w") as out:
        out.write("".join(f'[[layer]]\ntable = "api_facility"\ngeometry = "location"\n{layer}\n' for layer in layers))
    return path


def cells(cell, properties, more=""):
    return (f'name = "grid"\nbuffer = 256\n{more}[layer.aggregate]\ncell = "{cell}"\nsize = "1/8"\n'
            f"properties = {{ {properties} }}\n")


COUNT = 'count = "count(*)"'
SUMS = 'count = "count(*)", countries = "count(DISTINCT country_code)", newest = "max(updated_at)::text"'
PLAIN = 'name = "facilities"\nproperties = ["id", "name", "address", "country_code", "is_closed"]\n'
kinds = {"plain": config("plain", PLAIN), "hexagons that count": config("hexagons", cells("hexagon", COUNT)),
         "hexagons with aggregates": config("sums", cells("hexagon", SUMS)),
         "squares with aggregates": config("squares", cells("square", SUMS)), "clusters": config("clusters", PLAIN + "[layer.cluster]\n")}
archive = f"{files}/cells.mbtiles"


def beside(zooms, plain_zooms, names):
    turns = {name: [] for name in ["plain", *names]}
    for _ in range(runs):
        for name in turns:
            turns[name].append(timed("seed", kinds[name], archive, "--zoom", plain_zooms if name == "plain" else zooms))
    for name, times in turns.items():
        ratios = [one[0] / other[0] for one, other in zip(times, turns["plain"])]
        shown = "" if name == "plain" else f"{statistics.median(ratios):.2f} x plain zoom {plain_zooms} ({', '.join(f'{r:.2f}' for r in ratios)})"
        row(plain_zooms if name == "plain" else zooms, name, f"{statistics.median(one[0] for one in times):.2f} s",
            f"{times[-1][1]['manifest']['planned']:,}", shown)


beside("0-7", "14", [name for name in kinds if name != "plain"])
for zoom in ["3", "9"]:
    beside(zoom, zoom, [name for name in kinds if name != "plain"])

# A map: cells up to zoom 7, facilities from zoom 8. A hundred facilities move by some hundred metres.
both = config("both", cells("hexagon", COUNT, 'zoom = "0-7"\n'), PLAIN + 'zoom = "8-14"\n')
subprocess.run([oar_tiles, "track", "install", "--config", both, "--database-url", url], check=True, stdout=subprocess.DEVNULL)
keys = sql("SELECT id FROM api_facility ORDER BY id").split("\n")
seeds, reseeds, dirty = [], [], []
for _ in range(runs):
    seeds.append(timed("seed", both, archive, "--zoom", "0-14"))
    some = ",".join(f"'{key}'" for key in chance.sample(keys, 100))
    sql(f"UPDATE api_facility SET location = ST_Translate(location, 0.004, 0.003) WHERE id IN ({some})")
    reseeds.append(timed("reseed", both, archive))
    dirty.append(reseeds[-1][1]["dirty"])
ratios = [seed[0] / reseed[0] for seed, reseed in zip(seeds, reseeds)]
row("0-14", "cells and facilities: seed", f"{statistics.median(one[0] for one in seeds):.2f} s", f"{seeds[-1][1]['manifest']['planned']:,}", "")
row("0-14", "cells and facilities: reseed, 100 changed", f"{statistics.median(one[0] for one in reseeds):.2f} s", f"{statistics.median(dirty):,.0f}",
    f"{statistics.median(ratios):.0f} x faster ({', '.join(f'{ratio:.0f}' for ratio in ratios)})")

# No tile of the sample configurations is too heavy for a browser.
for sample, output in [("sample-config.toml", archive), ("scripts/open-apparel-registry.toml", f"{files}/registry/")]:
    seconds, told = timed("seed", f"{env['root']}/{sample}", output)
    heaviest = max((zoom["largest"] for zoom in told["zooms"] if zoom["largest"]), key=lambda tile: tile["bytes"])
    row(told["manifest"]["zooms"], f"{sample}: seed", f"{seconds:.2f} s", f"{told['manifest']['planned']:,}",
        f"heaviest tile {heaviest['tile']}: {heaviest['bytes'] / 1e3:.0f} kB")
write(sys.argv[1])
