"""The registry's own map beside every facility of the same data: seeds, reseeds, a watch; a watch of what `init` writes."""

import os
import subprocess
import tempfile
from pathlib import Path

from . import watch
from .bench import ROOT, listed, median
from .reseed import MOVE

SAMPLE = f"{ROOT}/scripts/open-apparel-registry.toml"
ZOOMS = "1-14"


def one_archive():
    """The sample without its [target] and its output."""
    lines, is_kept = [], True
    for line in open(SAMPLE):
        if line.startswith("["):
            is_kept = line.strip() != "[target]"
        if is_kept and not line.startswith("output"):
            lines.append(line)
    return "".join(lines)


def measure(bench):
    config, archive = bench.write("registry.toml", one_archive()), bench.file("registry.mbtiles")
    bench.install_triggers("--config", config)
    seeds(bench, config, archive)
    directory(bench)
    reseeds(bench, config, archive)
    watch.number_rows(bench)
    rates = [rate for rate in watch.UPDATES_PER_SECOND if rate]
    for name, rate in [("the registry's map", rate) for rate in rates]:
        watch.measure_target(bench, name, bench.file("watched.mbtiles"), watch.manifest_of_mbtiles, "--config", config,
                             zooms=ZOOMS, rates=[rate])
    written_by_init(bench)


def written_by_init(bench):
    """The map that `init` writes for the same facilities, watched."""
    config = bench.file("init.toml")
    # A file that is there is never overwritten.
    Path(config).unlink(missing_ok=True)
    subprocess.run([bench.oar_tiles, "init", "--database-url", bench.url, "--table", "api_facility", "--output", config],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    bench.install_triggers("--config", config)
    watch.measure_target(bench, "the map that init writes", bench.file("init.mbtiles"), watch.manifest_of_mbtiles, "--config", config,
                         zooms="0-14", rates=[100])


def seeds(bench, config, archive):
    ratios, own = [], []
    for _ in range(bench.runs):
        seconds, told = bench.timed("seed", "--config", config, "--output", archive)
        other, _ = bench.timed("seed", "--zoom", "6-14", "--output", bench.file("every.mbtiles"))
        own.append(seconds)
        ratios.append(seconds / other)
    bench.row("the registry's map: seed into one archive", f"{median(own):.2f} s", f"{told['peak_mb']:.0f} MB",
              f"{told['manifest']['planned']:,}", zooms=ZOOMS, ratio=f"{median(ratios):.2f} x every facility, 6-14 ({listed(ratios)})")


def directory(bench):
    """The sample as it is, into a directory in memory."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        seconds, told = bench.timed("seed", "--config", SAMPLE, "--output", f"{folder}/tiles/")
    bench.row("the registry's map: seed into a directory", f"{seconds:.2f} s", tiles=f"{told['manifest']['planned']:,}", zooms=ZOOMS)


def reseeds(bench, config, archive):
    for moved in [1, 100, 1000]:
        times = []
        for turn in range(bench.runs):
            bench.sql(f"{MOVE} WHERE id IN (SELECT id FROM api_facility ORDER BY hashtext(id || '{turn} {moved}') LIMIT {moved})")
            times.append(bench.timed("reseed", "--config", config, "--output", archive))
        bench.row(f"the registry's map: reseed, {moved:,} moved", f"{median(one[0] for one in times):.2f} s",
                  tiles=f"{times[-1][1]['dirty']:,}", zooms=ZOOMS)
