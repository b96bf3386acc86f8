"""What all measurements share: settings, running commands, and the table."""

import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HEADER = ("facilities", "zooms", "what", "time", "peak memory", "tiles", "file", "ratio, median (each pair)")
RIGHT_ALIGNED = range(3, 7)


def say(text):
    print(text, file=sys.stderr, flush=True)


def fail(text):
    sys.exit(f"scripts/bench: {text}")


def listed(values, form=".2f"):
    return ", ".join(format(value, form) for value in values)


class Bench:
    """The settings of a run, and the rows of its table."""

    say = staticmethod(say)

    def __init__(self, options):
        env = os.environ
        self.url, self.files, self.s3 = env["BENCH_URL"], env["BENCH_FILES"], env["BENCH_S3"]
        self.oar_tiles, self.pg_bindir = env["OAR_TILES"], env["PG_BINDIR"]
        self.config = env["OAR_TILES_CONFIG"]
        self.options, self.runs, self.workers = options, options.runs, str(options.workers)
        self.rows, self.notes = [], []
        self.count, self.zooms = 0, ""

    def begin_case(self, count, zooms):
        """The data and zooms of what is measured from now on."""
        self.count, self.zooms = count, zooms
        low, _, high = zooms.partition("-")
        self.low, self.high = low, high or low

    def load_facilities(self):
        """Generates the facilities of the case."""
        self.say(f"{self.count} facilities, zooms {self.zooms} …")
        # The vacuum sets hint bits and reads the table into memory, so that the first run pays for neither.
        self.psql("-v", f"count={self.count}", "-f", f"{ROOT}/scripts/schema.sql", "-f", f"{ROOT}/scripts/facilities.sql",
                  "-c", "VACUUM ANALYZE api_facility")

    def row(self, what, seconds, memory="", tiles="", size="", ratio="", zooms=None):
        """Adds a row to the table."""
        zooms = self.zooms if zooms is None else zooms
        self.rows.append((f"{self.count:,}", zooms, what, seconds, memory, tiles, size, ratio))
        say(f"  {what}: {seconds} {ratio}")

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def print_table(self):
        rows = [HEADER, *self.rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        for number, row in enumerate(rows):
            cells = [text.rjust(width) if column in RIGHT_ALIGNED else text.ljust(width)
                     for column, (text, width) in enumerate(zip(row, widths))]
            print("| " + " | ".join(cells) + " |")
            if number == 0:
                print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
        for note in self.notes:
            print(note)

    def file(self, name):
        """The path of a file of this run."""
        return f"{self.files}/{name}"

    def write(self, name, text):
        """Writes a file of this run; returns its path."""
        path = self.file(name)
        Path(path).write_text(text)
        return path

    def measured(self, command, limit=None, stdin=None, log="log"):
        """Runs a command: seconds, or None if it was stopped at the limit, and the peak of its resident memory in MB.

        Linux counts what the process held before it became the command as well: this Python, about 20 MB, is the least shown.
        """
        path = self.file(log)
        with open(path, "w") as out:
            start = time.monotonic()
            process = subprocess.Popen(command, stdout=out, stderr=out, stdin=stdin or subprocess.DEVNULL)
            stopped = threading.Event()
            timer = threading.Timer(limit, lambda: (stopped.set(), process.kill())) if limit else None
            if timer:
                timer.start()
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            if timer:
                timer.cancel()
        if process.returncode != 0 and not stopped.is_set():
            say(Path(path).read_text()[-4000:])
            fail(f"{command[0]} failed with exit code {process.returncode} (its output is above).")
        return (None if stopped.is_set() else seconds), usage.ru_maxrss / 1024

    def command(self, verb, *arguments):
        """The command line of oar-tiles for this run's database and workers."""
        return self.command_with(["--workers", self.workers], verb, *arguments)

    def command_with(self, workers, verb, *arguments):
        """The same with other flags for the workers."""
        return [self.oar_tiles, verb, "--database-url", self.url, *workers, "--progress", "none", *arguments]

    def timed(self, verb, *arguments):
        """Runs oar-tiles: seconds, and its report."""
        return self.timed_with(["--workers", self.workers], verb, *arguments)

    def timed_with(self, workers, verb, *arguments):
        """The same with other flags for the workers."""
        report = self.file("report.json")
        seconds, memory = self.measured(self.command_with(workers, verb, "--report", report, *arguments))
        told = json.loads(Path(report).read_text())
        told["peak_mb"] = memory
        return seconds, told

    def install_triggers(self, *arguments):
        subprocess.run([self.oar_tiles, "track", "install", "--database-url", self.url, *arguments], check=True, stdout=subprocess.DEVNULL)

    def psql_command(self, *arguments):
        """The command line and the environment of psql, which stops at the first error."""
        return ([shutil.which("psql") or f"{self.pg_bindir}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.url, *arguments],
                {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"})

    def psql(self, *arguments, **more):
        """Runs psql; returns its standard output."""
        command, env = self.psql_command(*arguments)
        done = subprocess.run(command, text=True, capture_output="stdout" not in more, env=env, **more)
        if done.returncode:
            fail(f"psql failed: {done.stderr}")
        return done.stdout

    def sql(self, text):
        """Runs SQL, each statement in a transaction of its own."""
        return self.psql(input=text).strip()


def tiles_in(file):
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as archive:
        return archive.execute("SELECT count(*) FROM tiles").fetchone()[0]


def remove(file):
    for name in (file, file + "-journal", file + "-wal", file + "-shm"):
        if os.path.exists(name):
            os.remove(name)


def megabytes(file):
    return f"{os.path.getsize(file) / 1e6:.1f} MB"


median = statistics.median
