"""Families of tilesets beside the plain seed: one archive for each of many countries, and for each of many contributors whose sets overlap; and
a reseed of the contributors after one edit, beside that of one tileset."""

import shutil

from .bench import listed, median

COUNTRIES = 250
CONTRIBUTORS = 2_000
MOST_OF_CONTRIBUTOR = 20_000
# With it, the sets of 2,000 contributors add up to some 500,000 memberships.
EXPONENT = 0.735

LAYER = """[[layer]]
name = "facilities"
table = "api_facility"
geometry = "location"
key = ["id"]
properties = ["id", "name", "country_code"]
"""


def measure(bench):
    countries(bench)
    contributors(bench)


def config(bench, name, variants, layer=LAYER):
    """A configuration of a family and one of the same tileset without variants; returns their paths."""
    zooms = f'[tileset]\nzoom = "{bench.zooms}"\n'
    family = bench.write(f"{name}.toml", f"{zooms}[tileset.variants]\n{variants}\n{layer}")
    plain = bench.write(f"{name}-plain.toml", f'{zooms}output = "{bench.file(name)}-plain.pmtiles"\n{layer}')
    return family, plain


def seeds(bench, name, family, plain):
    """Seeds of the family and of the plain tileset, in turns: the pairs of seconds, and the last reports."""
    pairs, told = [], None
    for _ in range(bench.runs):
        shutil.rmtree(bench.file(name), ignore_errors=True)
        seconds, alone = bench.timed("seed", "--config", plain, "--force")
        of_all, family_told = bench.timed("seed", "--config", family, "--force")
        pairs.append((of_all, seconds))
        told = (family_told, alone)
    return pairs, told


def countries(bench):
    """Facilities from west to east in slices of equal numbers, as countries of equal weight, beside the archive of all of them."""
    bench.sql("ALTER TABLE api_facility ADD IF NOT EXISTS country int; "
              f"UPDATE api_facility AS f SET country = s.n FROM (SELECT id, ntile({COUNTRIES}) OVER (ORDER BY ST_X(location), id) AS n FROM api_facility) AS s WHERE s.id = f.id")
    bench.sql("VACUUM (FULL, ANALYZE) api_facility")
    folder = bench.file("countries")
    family, plain = config(bench, "countries", 'values = "SELECT DISTINCT country FROM api_facility"\nwhere = { facilities = "country = !country!" }\n'
                           f'output = "{folder}/{{country}}.pmtiles"\nall = "{folder}.pmtiles"')
    pairs, (told, _) = seeds(bench, "countries", family, plain)
    ratios = [of_all / alone for of_all, alone in pairs]
    bench.row(f"seed of {told['variants']} countries and of all", f"{median(pair[0] for pair in pairs):.2f} s", f"{told['peak_mb']:.0f} MB",
              f"{told['written']:,}", ratio=f"{median(ratios):.2f} x the plain seed ({listed(ratios)})")


def contributors(bench):
    """Sets from one facility to thousands, which overlap."""
    most = min(MOST_OF_CONTRIBUTOR, bench.count)
    bench.sql("DROP TABLE IF EXISTS bench_number, membership; "
              "CREATE TABLE bench_number AS SELECT (row_number() OVER (ORDER BY md5(id)))::int - 1 AS n, id FROM api_facility; "
              "CREATE TABLE membership AS SELECT c AS contributor, b.id AS facility "
              f"FROM generate_series(1, {CONTRIBUTORS}) AS c CROSS JOIN LATERAL generate_series(0, greatest(1, ({most} / power(c, {EXPONENT}))::int) - 1) AS k "
              f"JOIN bench_number AS b ON b.n = (abs(hashint4(c)) % {bench.count} + k) % {bench.count}; "
              "ALTER TABLE membership ADD PRIMARY KEY (contributor, facility); CREATE INDEX ON membership (facility)")
    bench.sql("VACUUM ANALYZE membership")
    folder = bench.file("contributors")
    track = ('[[layer.track]]\ntable = "membership"\ngeometry = "SELECT location FROM api_facility WHERE id = changed.facility"\n')
    family, plain = config(bench, "contributors", 'values = "SELECT DISTINCT contributor FROM membership"\n'
                           'where = { facilities = "id IN (SELECT facility FROM membership WHERE contributor = !contributor!)" }\n'
                           f'output = "{folder}/{{contributor}}.pmtiles"', LAYER + track)
    for one in (family, plain):
        bench.install_triggers("--config", one)
    pairs, (told, alone) = seeds(bench, "contributors", family, plain)
    tiles, own = told["written"], alone["manifest"]["stored"]
    ratios = [(of_all / tiles) / (seconds / own) for of_all, seconds in pairs]
    memberships = bench.sql("SELECT count(*) FROM membership")
    bench.row(f"seed of {told['variants']:,} contributors, {int(memberships):,} memberships", f"{median(pair[0] for pair in pairs):.2f} s",
              f"{told['peak_mb']:.0f} MB", f"{tiles:,}", ratio=f"{median(ratios):.2f} x the plain seed's time a tile ({listed(ratios)})")
    one_edit(bench, family, plain)


def one_edit(bench, family, plain):
    """A facility of few contributors, most often of one, is renamed. Both bring the same change in, in turns."""
    lone = bench.sql("SELECT facility FROM membership GROUP BY facility ORDER BY count(*), md5(facility) LIMIT 30").split("\n")
    for one in (family, plain):
        bench.timed("reseed", "--config", one)
    of_family, of_one, looked = [], [], 0
    for facility in lone[:max(7, bench.runs)]:
        bench.sql(f"UPDATE api_facility SET name = name || '.' WHERE id = '{facility}'")
        of_one.append(bench.timed("reseed", "--config", plain)[0])
        seconds, told = bench.timed("reseed", "--config", family)
        of_family.append(seconds)
        looked = max(looked, told["reseeded"])
    ratios = [a / b for a, b in zip(of_family, of_one)]
    bench.row(f"reseed of {CONTRIBUTORS:,} contributors after one edit", f"{median(of_family) * 1e3:.0f} ms", tiles=f"{looked} variants",
              ratio=f"{median(ratios):.1f} x a reseed of one tileset, {median(of_one) * 1e3:.0f} ms; at most {max(of_family) * 1e3:.0f} ms")
    idle = [bench.timed("reseed", "--config", family)[0] for _ in range(5)]
    bench.row("  the same, nothing changed", f"{median(idle) * 1e3:.0f} ms")
