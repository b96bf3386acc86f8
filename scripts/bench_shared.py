"""What the measurements of scripts/bench share: their settings, which it puts into the environment, and the rows of its table."""
import json, os, subprocess, sys

env = os.environ
files, url, oar_tiles, workers, runs = env["files"], env["url"], env["oar_tiles"], env["workers"], int(env["runs"])
count = int(env["count"])
rows = []


def say(text):
    print(text, file=sys.stderr, flush=True)


def row(zooms, what, seconds, tiles, ratio):
    rows.append((f"{count:,}", zooms, what, seconds, "", tiles, "", ratio))
    say(f"  {what}: {seconds} {ratio}")


def sql(text):
    # From standard input each statement is a transaction of its own.
    done = subprocess.run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url], input=text, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"scripts/bench: psql failed: {done.stderr}")
    return done.stdout.strip()


def write(path):
    """Appends the rows to a file."""
    with open(path, "a") as results:
        for one in rows:
            results.write(json.dumps(one) + "\n")
