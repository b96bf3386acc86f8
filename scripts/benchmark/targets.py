"""The same seed into each kind of target, side by side."""

import os
import subprocess
import sys

from .bench import ROOT, listed, median, megabytes, remove, tiles_in

# A local server of one disk stores some thousand objects a second: fewer tiles show the same.
DEEPEST_S3_ZOOM = 11


def measure(bench):
    archives = {"mbtiles": bench.file("t.mbtiles"), "pmtiles": bench.file("t.pmtiles")}
    turns = {kind: [] for kind in ["mbtiles", "pmtiles", "directory", "again", "cp"]}
    for turn in range(bench.runs):
        for archive in archives.values():
            remove(archive)
        # A new folder each time: ext4 creates files slowly where as many were just removed.
        directory = bench.file(f"tiles-{bench.count}-{turn}/")
        os.sync()
        for kind, target in [*archives.items(), ("directory", directory), ("again", directory)]:
            turns[kind].append(bench.timed("seed", "--output", target, "--zoom", bench.zooms))
        # What the file system takes for so many files, whoever creates them.
        copy = ["bash", "-c", 'cp -r "$0" "$1" && sync -f "$1"', directory, bench.file(f"cp-{bench.count}-{turn}")]
        seconds, memory = bench.measured(copy)
        turns["cp"].append((seconds, {**turns["directory"][-1][1], "peak_mb": memory}))
    for name, kind in [("seed into MBTiles", "mbtiles"), ("seed into PMTiles", "pmtiles"), ("seed into a directory", "directory"),
                       ("the directory again", "again"), ("cp -r of the directory", "cp")]:
        beside_mbtiles(bench, name, turns[kind], turns["mbtiles"])
    seconds, memory = bench.measured([bench.oar_tiles, "copy", archives["mbtiles"], bench.file("c.pmtiles")])
    tiles = tiles_in(archives["mbtiles"])
    bench.row("copy MBTiles to PMTiles", f"{seconds:.2f} s", f"{memory:.0f} MB", f"{tiles:,}", megabytes(bench.file("c.pmtiles")),
              f"{tiles / seconds:,.0f} tiles/s")
    measure_s3(bench)


def beside_mbtiles(bench, name, turns, others):
    ratios = [turn[0] / other[0] for turn, other in zip(turns, others)]
    told = turns[-1][1]
    bench.row(name, f"{median(seconds for seconds, _ in turns):.2f} s", f"{max(told['peak_mb'] for _, told in turns):.0f} MB",
              f"{told['written']:,}", f"{told['bytes'] / 1e6:.1f} MB", f"{median(ratios):.2f} x MBTiles ({listed(ratios)})")


def s3_config(bench):
    """A configuration for the private S3 server, and a bucket in it."""
    python = ROOT / "target" / "readers" / "bin" / "python"
    make = ("import boto3, sys; "
            "boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1').create_bucket(Bucket='bench')")
    subprocess.run([str(python) if python.exists() else sys.executable, "-c", make, bench.s3], check=False, stderr=subprocess.DEVNULL)
    with open(bench.config) as layers:
        return bench.write("s3.toml", f'{layers.read()}[s3]\nendpoint = "{bench.s3}"\nregion = "us-east-1"\npath_style = true\n')


def measure_s3(bench):
    config = s3_config(bench)
    zooms = f"{bench.low}-{min(int(bench.high), DEEPEST_S3_ZOOM)}"
    for name in ["S3", "S3 again"]:
        seconds, told = bench.timed("seed", "--output", f"s3://bench/{bench.count}/", "--zoom", zooms, "--config", config)
        flights = told["requests"]
        bench.row(f"{name}, zooms {zooms}", f"{seconds:.2f} s", f"{told['peak_mb']:.0f} MB", f"{told['written']:,}",
                  f"{told['bytes'] / 1e6:.1f} MB",
                  f"{flights['requests']:,} requests, {flights['mean_in_flight']:.0f} of 64 in flight on average")
