"""The seed beside the floor: the statements by which the database draws every tile, results thrown away."""

import json
import subprocess
from dataclasses import dataclass

from .bench import fail, listed, median, megabytes, remove, tiles_in


@dataclass
class Seeded:
    """What the peers are compared with."""

    archive: str
    seconds: float


def floor(bench):
    run = subprocess.run(
        [bench.floor, "--config", bench.config, "--database-url", bench.url, "--zoom", bench.zooms, "--workers", bench.workers],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if run.returncode != 0 or not lines:
        fail("the floor could not be measured (see above).")
    return json.loads(lines[-1])


def measure(bench):
    """Floor and seed in turns, so that a machine that is slow for a while slows both."""
    archive = bench.file("seed.mbtiles")
    floors, seeds = [], []
    for _ in range(bench.runs):
        remove(archive)
        floors.append(floor(bench))
        seeds.append(bench.timed("seed", "--zoom", bench.zooms, "--output", archive))
        bench.say(f"  floor {floors[-1]['plan_seconds'] + floors[-1]['render_seconds']:.2f} s, seed {seeds[-1][0]:.2f} s")
    plans = [one["plan_seconds"] for one in floors]
    totals = [one["plan_seconds"] + one["render_seconds"] for one in floors]
    ratios = [seconds / total for (seconds, _), total in zip(seeds, totals)]
    seconds = median(seconds for seconds, _ in seeds)
    planned = seeds[-1][1]["manifest"]["planned"]
    if planned != floors[-1]["tiles"]:
        bench.note(f"{bench.count} facilities, zooms {bench.zooms}: the floor rendered {floors[-1]['tiles']:,} tiles, seed {planned:,}. "
                   "They have to be the same for the ratio to mean anything.")
    bench.row("floor", f"{median(totals):.2f} s", tiles=f"{floors[-1]['tiles']:,}", ratio=f"planning {median(plans):.2f} s")
    bench.row("oar-tiles seed", f"{seconds:.2f} s", f"{max(told['peak_mb'] for _, told in seeds):.0f} MB", f"{tiles_in(archive):,}",
              megabytes(archive), f"{median(ratios):.2f} x floor ({listed(ratios)})")
    return Seeded(archive, seconds)
