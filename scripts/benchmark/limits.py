"""A seed with other numbers of workers than cores, and with other limits of the memory for cached rows, in turns."""

import os

from .bench import megabytes, median, remove

# Fewer and many more than the cores of a small machine.
WORKERS = [1, 2, 4, 8, 16]
# Megabytes; the last one is more than any run here takes.
ROWS_MB = ["160", "auto", "65536"]


def cores(bench):
    """The same seed by each number of workers; the ratio is to the fastest of the run."""
    measured = in_turns(bench, [f"{workers} workers" for workers in WORKERS],
                        lambda number: (["--workers", str(WORKERS[number])], {}))
    rows(bench, measured, min(median(times) for _, times, *_ in measured), "the fastest")


def memory(bench):
    """The same seed by each limit; the ratio is to the run whose rows all fit."""
    measured = in_turns(bench, [f"rows_mb = {limit}" for limit in ROWS_MB],
                        lambda number: (["--workers", bench.workers], {"OAR_TILES_ROWS_MB": ROWS_MB[number]}))
    rows(bench, measured, median(measured[-1][1]), f"rows_mb = {ROWS_MB[-1]}")


def in_turns(bench, names, how):
    """The name, the seconds of each run, the most memory, and the last report of each case."""
    file = bench.file("limits.mbtiles")
    measured = [(name, [], [], []) for name in names]
    for _ in range(bench.options.runs):
        for number, (name, times, memories, reports) in enumerate(measured):
            remove(file)
            arguments, variables = how(number)
            # The flag comes after the bench's own; the variable is read by the program alone.
            os.environ.update(variables)
            seconds, report = bench.timed_with(arguments, "seed", "--zoom", bench.zooms, "--output", file)
            for variable in variables:
                del os.environ[variable]
            times.append(seconds)
            memories.append(report["peak_mb"])
            reports.append({**report, "file": megabytes(file)})
            bench.say(f"  seed, {name}: {seconds:.2f} s, {report['peak_mb']:.0f} MB")
    return measured


def rows(bench, measured, base, base_name):
    for name, times, memories, reports in measured:
        report = reports[-1]
        stages = report["stages"]
        shares = ", ".join(f"{stage} {stages[stage] * 100:.0f} %" for stage in ["database", "drawing", "packing", "writing"])
        bench.row(f"oar-tiles seed, {name}", f"{median(times):.2f} s", f"{max(memories):.0f} MB", f"{report['written']:,}", report["file"],
                  ratio=f"{median(times) / base:.2f} x {base_name}; planning {report['plan_seconds'] - report['reading_seconds']:.1f} s, "
                  f"reading rows {report['reading_seconds']:.1f} s, finishing {report['finish_seconds']:.1f} s; busy: {shares}")
