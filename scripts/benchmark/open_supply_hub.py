"""The tables of scripts/open-supply-hub in the private database, and the example's configuration for them."""

from .bench import ROOT

FOLDER = f"{ROOT}/scripts/open-supply-hub"
EXAMPLE = f"{ROOT}/examples/open-supply-hub.toml"


def fill(bench, width):
    """Makes the tables with bench.count facilities and `width` bytes of jsonb in each row of the index table."""
    bench.say(f"{bench.count} facilities in the tables of Open Supply Hub, {width} bytes of jsonb a row …")
    bench.psql("-v", f"count={bench.count}", "-v", f"width={width}", "-f", f"{FOLDER}/tables.sql", "-f", f"{ROOT}/scripts/facilities.sql",
               "-f", f"{FOLDER}/rows.sql", "-f", f"{FOLDER}/triggers.sql", "-f", f"{FOLDER}/oracle.sql")
    bench.sql("VACUUM ANALYZE api_facilityindex")


def config(bench, more=""):
    """The example with its targets among the files of this run, and more sections: the path of the file."""
    text = open(EXAMPLE).read().replace('output = "{tileset}.mbtiles"', f'output = "{bench.files}/{{tileset}}.mbtiles"')
    return bench.write("open-supply-hub.toml", text + more)
