"""The seed beside the floor."""

from dataclasses import dataclass

from . import floor
from .bench import listed, median, megabytes, remove, tiles_in


@dataclass
class Seeded:
    """What the peers are compared with."""

    archive: str
    seconds: float


FACILITIES = floor.Table("api_facility", "location", ["id", "name", "address", "country_code", "is_closed"])


def measure(bench):
    """Floor and seed in turns, so that a machine that is slow for a while slows both."""
    archive = bench.file("seed.mbtiles")
    floors, seeds = [], []
    for _ in range(bench.runs):
        remove(archive)
        floors.append(floor.measure(bench, FACILITIES))
        seeds.append(bench.timed("seed", "--zoom", bench.zooms, "--output", archive))
        bench.say(f"  floor {floors[-1][0]:.2f} s, seed {seeds[-1][0]:.2f} s")
    ratios = [seconds / least for (seconds, _), (least, _) in zip(seeds, floors)]
    seconds = median(seconds for seconds, _ in seeds)
    stored = tiles_in(archive)
    if stored != floors[-1][1]:
        bench.note(f"{bench.count} facilities, zooms {bench.zooms}: the floor drew {floors[-1][1]:,} tiles, seed {stored:,}. "
                   "They have to be the same for the ratio to mean anything.")
    bench.row("floor", f"{median(least for least, _ in floors):.2f} s", tiles=f"{floors[-1][1]:,}")
    bench.row("oar-tiles seed", f"{seconds:.2f} s", f"{max(told['peak_mb'] for _, told in seeds):.0f} MB", f"{stored:,}",
              megabytes(archive), f"{median(ratios):.2f} x floor ({listed(ratios)})")
    return Seeded(archive, seconds)
