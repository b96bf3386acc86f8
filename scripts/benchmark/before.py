"""Seed and reseed beside another program, such as an older one: both on the same table, in turns."""

from .bench import listed, median, remove
from .reseed import MOVE


def measure(bench):
    programs = {"before": bench.options.before, "now": bench.oar_tiles}
    archives = {name: bench.file(f"{name}.mbtiles") for name in programs}
    bench.install_triggers()
    try:
        seeds(bench, programs, archives)
        for moved, repeats in ((0, 10 * bench.runs), (1, 5 * bench.runs), (1_000, bench.runs)):
            reseeds(bench, programs, archives, moved, repeats)
    finally:
        bench.oar_tiles = programs["now"]


def in_turns(bench, programs, turn, timed):
    """Runs both, the other one first every second time; seconds of each."""
    names = list(programs)[:: 1 if turn % 2 == 0 else -1]
    took = {}
    for name in names:
        bench.oar_tiles = programs[name]
        took[name] = timed(name)
    return took


def row(bench, what, times):
    ratios = [one["now"] / one["before"] for one in times]
    before, now = (median(one[name] for one in times) for name in ("before", "now"))
    bench.row(f"{what}: before", f"{before * 1e3:.0f} ms")
    bench.row(f"{what}: now", f"{now * 1e3:.0f} ms", ratio=f"{median(ratios):.3f} x before ({listed(sorted(ratios))})")


def seeds(bench, programs, archives):
    times = []
    for turn in range(2 * bench.runs):
        for archive in archives.values():
            remove(archive)
        times.append(in_turns(bench, programs, turn, lambda name: bench.timed("seed", "--zoom", bench.zooms, "--output", archives[name])[0]))
    row(bench, "seed", times)


def reseeds(bench, programs, archives, moved, repeats):
    """The targets of both have seen the same changes, and each of them reseeds its own."""
    times = []
    for turn in range(repeats):
        if moved:
            bench.sql(f"{MOVE} WHERE id IN (SELECT id FROM api_facility ORDER BY hashtext(id || '{turn}') LIMIT {moved})")
        times.append(in_turns(bench, programs, turn, lambda name: bench.timed("reseed", "--output", archives[name])[0]))
    row(bench, f"reseed, {moved:,} moved" if moved else "reseed, nothing changed", times)
