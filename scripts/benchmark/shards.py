"""The same seed in shards, one after the other: processor time beside that of one process, weights, and what the commit takes."""

import json
import os
import subprocess
import time
from pathlib import Path

from .bench import fail, listed, median, remove
from .targets import s3_config

SHARDS = 8
TICKS = os.sysconf("SC_CLK_TCK")


def processor_time(pid):
    """User and system time of a process and of its children that have ended, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


class Clock:
    """Runs commands, and sums up their processor time and that of the database server."""

    def __init__(self, bench):
        self.bench = bench
        folder = bench.sql("SHOW data_directory")
        self.server = int(Path(folder, "postmaster.pid").read_text().split()[0])

    def database(self):
        live = subprocess.run(["pgrep", "-P", str(self.server)], capture_output=True, text=True).stdout.split()
        total = processor_time(self.server)
        for pid in live:
            try:
                total += processor_time(pid)
            except FileNotFoundError:
                pass  # It has ended since, and its parent has its time.
        return total

    def run(self, command):
        """Seconds, processor seconds of the program, and of the database meanwhile."""
        before, begun = self.database(), time.monotonic()
        with open(self.bench.file("log"), "w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            print(Path(self.bench.file("log")).read_text()[-4000:])
            fail(f"{' '.join(command)} failed with exit code {process.returncode} (its output is above).")
        # Backends end a moment after their clients.
        time.sleep(0.2)
        return seconds, usage.ru_utime + usage.ru_stime, self.database() - before


def sharded(bench, clock, target, work, more):
    """Begins, renders every shard and commits: what each took, and the report of the commit."""
    def verb(name, *arguments):
        plain = [bench.oar_tiles, "shards", name, "--work", work, "--database-url", bench.url, "--progress", "none", *more]
        return clock.run([*plain, *([] if name == "begin" else ["--workers", bench.workers]), *arguments])

    report = bench.file("report.json")
    begin = verb("begin", "--shards", str(SHARDS), "--output", target, "--zoom", bench.zooms)
    runs = [verb("run", "--shard", f"{number}/{SHARDS}") for number in range(1, SHARDS + 1)]
    commit = verb("commit", "--report", report)
    return begin, runs, commit, json.loads(Path(report).read_text())


def measure(bench):
    bench.install_triggers()
    clock = Clock(bench)
    for kind in ["mbtiles", "pmtiles"]:
        measure_archive(bench, clock, kind)
    config = s3_config(bench)
    with open(config, "a") as settings:
        settings.write('[target]\ntemplate = "{version}/{z}/{x}/{y}.pbf"\npublish = "versioned"\n')
    target = f"s3://bench/versions-{bench.count}/"
    _, runs, commit, told = sharded(bench, clock, target, bench.file("work-of-s3/"), ["--config", config])
    bench.row("shards into a version of a prefix", f"{sum(one[0] for one in runs):.2f} s", tiles=f"{told['manifest']['stored']:,}")
    bench.row("commit of that prefix", f"{commit[0]:.2f} s", tiles=f"{told['manifest']['stored']:,}",
              ratio=f"{told['requests']['requests']:,} requests for tiles")


def measure_archive(bench, clock, kind):
    """Shards beside the seed of the same archive."""
    ratios, commits, heaviest = [], [], []
    for _ in range(bench.runs):
        for name in ["seed", "shards"]:
            remove(bench.file(f"{name}.{kind}"))
        seed = clock.run(bench.command("seed", "--zoom", bench.zooms, "--output", bench.file(f"seed.{kind}")))
        begin, runs, commit, _ = sharded(bench, clock, bench.file(f"shards.{kind}"), bench.file("work/"), [])
        processor = [sum(one[1:]) for one in [begin, *runs, commit]]
        ratios.append(sum(processor) / sum(seed[1:]))
        commits.append(commit[0] / seed[0])
        own = [sum(one[1:]) for one in runs]
        heaviest.append(max(own) / (sum(own) / SHARDS))
        bench.say(f"  {kind}: seed {seed[0]:.2f} s (program {seed[1]:.2f}, database {seed[2]:.2f}); begin {begin[0]:.2f} s ({begin[1]:.2f}, {begin[2]:.2f}), "
                  f"shards {listed(one[0] for one in runs)} s (together {sum(one[1] for one in runs):.2f}, {sum(one[2] for one in runs):.2f}), "
                  f"commit {commit[0]:.2f} s ({commit[1]:.2f}, {commit[2]:.2f})")
    bench.row(f"{SHARDS} shards into {kind}: processor time", "", ratio=f"{median(ratios):.2f} x seed ({listed(ratios)})")
    bench.row(f"commit of {kind}", "", ratio=f"{median(commits):.2f} x seed ({listed(commits)})")
    bench.row("heaviest shard, processor time", "", ratio=f"{median(heaviest):.2f} x mean ({listed(heaviest)})")
