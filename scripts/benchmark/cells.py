"""Layers of cells and clusters beside plain zooms of the same data, in turns."""

import random

from .bench import ROOT, listed, median

COUNT = 'count = "count(*)"'
SUMS = 'count = "count(*)", countries = "count(DISTINCT country_code)", newest = "max(updated_at)::text"'
PLAIN = 'name = "facilities"\nproperties = ["id", "name", "address", "country_code", "is_closed"]\n'


def grid(cell, properties, more=""):
    return (f'name = "grid"\nbuffer = 256\n{more}[layer.aggregate]\ncell = "{cell}"\nsize = "1/8"\n'
            f"properties = {{ {properties} }}\n")


def config(bench, name, *layers):
    return bench.write(f"{name}.toml", "".join(f'[[layer]]\ntable = "api_facility"\ngeometry = "location"\n{layer}\n' for layer in layers))


def measure(bench):
    kinds = {
        "plain": config(bench, "plain", PLAIN),
        "hexagons that count": config(bench, "hexagons", grid("hexagon", COUNT)),
        "hexagons with aggregates": config(bench, "sums", grid("hexagon", SUMS)),
        "squares with aggregates": config(bench, "squares", grid("square", SUMS)),
        "clusters": config(bench, "clusters", PLAIN + "[layer.cluster]\n"),
    }
    for zooms, plain_zooms in [("0-7", "14"), ("3", "3"), ("9", "9")]:
        beside_plain(bench, kinds, zooms, plain_zooms)
    reseed_map(bench)
    heaviest_tiles(bench)


def beside_plain(bench, kinds, zooms, plain_zooms):
    turns = {name: [] for name in kinds}
    for _ in range(bench.runs):
        for name, file in kinds.items():
            own = plain_zooms if name == "plain" else zooms
            archive = bench.file(f"{list(kinds).index(name)}-{own}.mbtiles")
            turns[name].append(bench.timed("seed", "--config", file, "--output", archive, "--zoom", own))
    for name, times in turns.items():
        ratios = [one[0] / other[0] for one, other in zip(times, turns["plain"])]
        shown = "" if name == "plain" else f"{median(ratios):.2f} x plain zoom {plain_zooms} ({listed(ratios)})"
        bench.row(name, f"{median(one[0] for one in times):.2f} s", tiles=f"{times[-1][1]['manifest']['planned']:,}", ratio=shown,
                  zooms=plain_zooms if name == "plain" else zooms)


def reseed_map(bench):
    """A map of cells up to zoom 7 and facilities from zoom 8. A hundred facilities move by some hundred metres."""
    both = config(bench, "both", grid("hexagon", COUNT, 'zoom = "0-7"\n'), PLAIN + 'zoom = "8-14"\n')
    archive, chance = bench.file("map.mbtiles"), random.Random(7)
    bench.install_triggers("--config", both)
    keys = bench.sql("SELECT id FROM api_facility ORDER BY id").split("\n")
    seeds, reseeds = [], []
    for _ in range(bench.runs):
        seeds.append(bench.timed("seed", "--config", both, "--output", archive, "--zoom", "0-14"))
        some = ",".join(f"'{key}'" for key in chance.sample(keys, 100))
        bench.sql(f"UPDATE api_facility SET location = ST_Translate(location, 0.004, 0.003) WHERE id IN ({some})")
        reseeds.append(bench.timed("reseed", "--config", both, "--output", archive))
    ratios = [seed[0] / reseed[0] for seed, reseed in zip(seeds, reseeds)]
    bench.row("cells and facilities: seed", f"{median(one[0] for one in seeds):.2f} s",
              tiles=f"{seeds[-1][1]['manifest']['planned']:,}", zooms="0-14")
    bench.row("cells and facilities: reseed, 100 changed", f"{median(one[0] for one in reseeds):.2f} s",
              tiles=f"{median(told['dirty'] for _, told in reseeds):,.0f}", zooms="0-14",
              ratio=f"{median(ratios):.0f} x faster ({listed(ratios, '.0f')})")


def heaviest_tiles(bench):
    """No tile of the sample configurations is too heavy for a browser."""
    for sample, output in [("sample-config.toml", bench.file("sample.mbtiles")),
                           ("scripts/open-apparel-registry.toml", bench.file("registry/"))]:
        seconds, told = bench.timed("seed", "--config", f"{ROOT}/{sample}", "--output", output)
        heaviest = max((zoom["largest"] for zoom in told["zooms"] if zoom["largest"]), key=lambda tile: tile["bytes"])
        bench.row(f"{sample}: seed", f"{seconds:.2f} s", tiles=f"{told['manifest']['planned']:,}", zooms=told["manifest"]["zooms"],
                  ratio=f"heaviest tile {heaviest['tile']}: {heaviest['bytes'] / 1e3:.0f} kB")
