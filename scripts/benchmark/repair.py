"""What `repair = true` costs: shapes that are not valid, and countries some of which jump across 180 degrees, beside the same shapes mended before, with
repair and without. PostgreSQL's processor time tells more than the seconds, on a machine that does something else meanwhile."""

import os
import subprocess
from pathlib import Path

from . import shapes
from .bench import ROOT, median, megabytes, remove, tiles_in

CONFIG = '[[layer]]\nname = "shapes"\ntable = "{table}"\nproperties = ["name"]\nrepair = {repair}\n'
# Shapes, vertices of each, radius in degrees, zooms.
KINDS = {"coasts": (6, 100_000, 8, "0-8"), "districts": (1_000, 3_000, 0.6, "0-7")}

# Each shape is a circle with bays, and one of its vertices lies far inside of it, so that it crosses itself there. Forty stand in a row.
TABLES = """
DROP TABLE IF EXISTS flawed, mended;
CREATE TABLE flawed AS SELECT n AS id, 'shape ' || n AS name, (
        SELECT ST_SetSRID(ST_MakePolygon(ST_AddPoint(line, ST_StartPoint(line))), 4326) FROM (
            SELECT ST_MakeLine(ST_MakePoint(-150 + n % 40 * {radius} * 2.2 + r * cos(angle), -20 + n / 40 * {radius} * 2.2 + r * sin(angle)) ORDER BY i) AS line FROM (
                SELECT i, 2 * pi() * i / {vertices} AS angle,
                    {radius} * CASE WHEN i = 7 THEN 0.3 ELSE 1 + 0.1 * sin(i / 90.0) + 0.001 * sin(i / 3.0) END AS r
                FROM generate_series(0, {vertices} - 1) AS i
            ) AS vertices
        ) AS ring)::geometry(Geometry, 4326) AS geom
    FROM generate_series(1, {count}) AS n;
"""
MEND = """
CREATE TABLE mended AS SELECT id, name, {mended}::geometry(Geometry, 4326) AS geom FROM flawed;
ALTER TABLE flawed ADD PRIMARY KEY (id); CREATE INDEX ON flawed USING gist (geom);
ALTER TABLE mended ADD PRIMARY KEY (id); CREATE INDEX ON mended USING gist (geom);
VACUUM ANALYZE flawed; VACUUM ANALYZE mended;
"""

CASES = [
    ("as they came, with repair", "flawed", "true"),
    ("as they came, without repair", "flawed", "false"),
    ("mended before, with repair", "mended", "true"),
    ("mended before, without repair", "mended", "false"),
]


def measure(bench):
    """The cases of each kind in turns; also by another program, if there is one."""
    bench.sql("CREATE EXTENSION IF NOT EXISTS postgis")
    for kind, (count, vertices, radius, zooms) in KINDS.items():
        bench.sql(TABLES.format(count=count, vertices=vertices, radius=radius))
        bench.sql(MEND.format(mended="ST_CollectionExtract(ST_MakeValid(geom), 3)"))
        bench.begin_case(count, zooms)
        measure_kind(bench, kind, zooms)
    countries(bench)


def countries(bench):
    """Natural Earth's countries: three of them jump, one is not valid."""
    folder = bench.file("shapes")
    subprocess.run(["npm", "install", "--prefix", folder, "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error", shapes.PACKAGES[0]],
                   check=True, stdout=subprocess.DEVNULL)
    case = shapes.CASES[0]
    shapes.load(bench, case, f"{folder}/node_modules/{case.file}")
    functions = [block.split("```")[0] for block in Path(f"{ROOT}/docs/world-edge.md").read_text().split("```sql\n")[1:] if block.startswith("CREATE FUNCTION")]
    bench.sql(";".join(functions))
    bench.sql(f'DROP TABLE IF EXISTS flawed, mended; CREATE TABLE flawed AS SELECT * FROM "{case.name}"')
    bench.sql(MEND.format(mended="repaired(geom)"))
    bench.begin_case(241, "0-6")
    measure_kind(bench, "countries", "0-6")


def server_seconds(bench):
    """The processor time of all sessions of the server that have ended."""
    parent = bench.sql("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
    fields = Path(f"/proc/{parent.strip()}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def measure_kind(bench, kind, zooms):
    archive, config = bench.file("repair.mbtiles"), bench.config
    programs = {"": bench.oar_tiles}
    if bench.options.before:
        programs[", the program before"] = bench.options.before
    runs = {}
    for _ in range(bench.runs):
        for name, table, repair in CASES:
            bench.config = os.environ["OAR_TILES_CONFIG"] = bench.write("repair.toml", CONFIG.format(table=table, repair=repair))
            for which, bench.oar_tiles in programs.items():
                remove(archive)
                before = server_seconds(bench)
                taken, told = bench.timed("seed", "--zoom", zooms, "--output", archive)
                runs.setdefault(f"{kind} {name}{which}", []).append((taken, server_seconds(bench) - before, told["peak_mb"], tiles_in(archive), megabytes(archive)))
    bench.oar_tiles = programs[""]
    bench.config = os.environ["OAR_TILES_CONFIG"] = config
    for name, of_case in runs.items():
        *_, tiles, size = of_case[-1]
        bench.row(name, f"{median(taken for taken, *_ in of_case):.2f} s", f"{max(peak for _, _, peak, *_ in of_case):.0f} MB", f"{tiles:,}", size,
                  f"{median(spent for _, spent, *_ in of_case):.2f} s of PostgreSQL's processor time")
