"""Other programs that make the same tiles: tippecanoe, martin-cp."""

import json
import os
import shutil
import sqlite3

from .bench import megabytes, remove, tiles_in

# The properties of the seed, as a file of features: the export is not counted.
EXPORT = """
\\set FETCH_COUNT 10000
SELECT json_build_object('type', 'Feature', 'geometry', ST_AsGeoJSON(location, 15)::json, 'properties',
    (SELECT json_object_agg(key, value) FROM jsonb_each(to_jsonb(f) - 'location')
     WHERE key = ANY (:'fields'::text[]) AND value <> 'null'))
FROM api_facility AS f;
"""


def measure(bench):
    seeded = bench.seeded
    with sqlite3.connect(f"file:{seeded.archive}?mode=ro", uri=True) as archive:
        layer = json.loads(archive.execute("SELECT value FROM metadata WHERE name = 'json'").fetchone()[0])["vector_layers"][0]
    if shutil.which("tippecanoe"):
        tippecanoe(bench, seeded, layer)
    else:
        bench.note("tippecanoe is not on the PATH: skipped.")
    if shutil.which("martin-cp"):
        file = bench.file("martin.mbtiles")
        peer(bench, seeded, "martin-cp", file,
             ["martin-cp", "--output-file", file, "--mbtiles-type", "flat", "--min-zoom", bench.low, "--max-zoom", bench.high,
              "--concurrency", bench.workers, "--pool-size", bench.workers, "--source", "api_facility", bench.url])
    else:
        bench.note("martin-cp is not on the PATH: skipped.")


def tippecanoe(bench, seeded, layer):
    features, file = bench.file("features.geojsonl"), bench.file("tippecanoe.mbtiles")
    fields = "{" + ",".join(json.dumps(field) for field in layer["fields"]) + "}"
    with open(features, "w") as out:
        bench.psql("-v", f"fields={fields}", stdout=out, input=EXPORT)
    os.environ["TIPPECANOE_MAX_THREADS"] = bench.workers
    # Nothing dropped, nothing thinned; a buffer of 4/256 of a tile is the 64/4096 of the seed.
    peer(bench, seeded, "tippecanoe", file,
         ["tippecanoe", "--quiet", "--force", "-o", file, "-l", layer["id"], "-Z", bench.low, "-z", bench.high, "-r1",
          "--no-feature-limit", "--no-tile-size-limit", "--buffer=4", "--read-parallel", features])
    os.remove(features)


def peer(bench, seeded, name, file, command):
    limit = bench.options.peer_limit
    seconds, memory = bench.measured(command, limit)
    if seconds is None:
        bench.row(name, f"> {limit} s", f"{memory:.0f} MB", "stopped", ratio=f"> {limit / seeded.seconds:.0f} x seed")
    else:
        bench.row(name, f"{seconds:.2f} s", f"{memory:.0f} MB", f"{tiles_in(file):,}", megabytes(file),
                  f"{seconds / seeded.seconds:.1f} x seed")
    remove(file)
