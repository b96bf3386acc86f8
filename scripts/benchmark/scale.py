"""Many rows: the seed of all facilities beside that of a tenth of them and one in parts (--resume), without the floor; and reseeds after one move."""

from .bench import median, megabytes, remove, tiles_in

MOVE = "UPDATE api_facility SET location = ST_Translate(location, 0.004, 0.003) WHERE id = (SELECT id FROM api_facility OFFSET {} LIMIT 1)"
MOVES = 5


def measure(bench):
    all_of_them, per_row = bench.count, []
    for count in (all_of_them // 10, all_of_them):
        bench.begin_case(count, bench.zooms)
        bench.load_facilities()
        bench.install_triggers()
        archive = bench.file("scale.mbtiles")
        remove(archive)
        seconds, told = bench.timed("seed", "--zoom", bench.zooms, "--output", archive)
        per_row.append(seconds / count)
        planned = told["plan_seconds"] - told["reading_seconds"]
        beside = f" ({per_row[1] / per_row[0]:.2f} x a tenth of them)" if per_row[1:] else ""
        bench.row("oar-tiles seed", f"{seconds:.1f} s", f"{told['peak_mb']:.0f} MB", f"{tiles_in(archive):,}", megabytes(archive),
                  f"{per_row[-1] * 1e6:.1f} µs a row{beside}; survey and plan {planned / seconds:.0%}, reading rows {told['reading_seconds'] / seconds:.0%}")
        resumed = bench.file("resumed.mbtiles")
        remove(resumed)
        in_parts, told = bench.timed("seed", "--resume", "--zoom", bench.zooms, "--output", resumed)
        bench.row("seed --resume", f"{in_parts:.1f} s", f"{told['peak_mb']:.0f} MB", f"{tiles_in(resumed):,}", megabytes(resumed), f"{in_parts / seconds:.2f} x the seed")
        remove(resumed)
        took = []
        for move in range(MOVES):
            bench.sql(MOVE.format(move * 1000))
            took.append(bench.timed("reseed", "--output", archive)[0])
        bench.row("reseed, one move", f"{median(took) * 1e3:.0f} ms", ratio=f"{max(took) * 1e3:.0f} ms at most of {MOVES}")
