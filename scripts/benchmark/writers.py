"""What the triggers cost those who write into a wide table (scripts/open-supply-hub): the statement triggers that `track install` makes, beside none, and beside
row triggers that note the same, `WHEN` a column that the tiles need differs. And what the notices cost many sessions that commit at once."""

import contextlib
import re
import subprocess
import threading

from . import open_supply_hub
from .bench import fail, median
from .serve import ended

WIDTHS = [0, 5000]
# Columns of api_facilityindex that the example needs.
WATCHED = ["id", "name", "address", "country_code", "location", "contributors_id", "lists", "contrib_types", "sector", "number_of_workers", "facility_type",
           "processing_type", "product_type", "native_language_name", "parent_company_name", "parent_company_id", "custom_text_search"]
KINDS = ["none", "statement", "row"]
ROWS, STATEMENTS = 50_000, 10_000
BLOCK, BLOCK_SESSIONS = 10_000, 10
COMMITTERS, COMMIT_SECONDS = 200, 15

ROW_TRIGGER = """
CREATE OR REPLACE FUNCTION oar_tiles.note_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO oar_tiles.change (watch, rows, x, y) VALUES ({watch}, 1,
        CASE WHEN NEW.location OPERATOR(public.=) OLD.location THEN ARRAY[public.ST_X(OLD.location)] ELSE ARRAY[public.ST_X(OLD.location), public.ST_X(NEW.location)] END,
        CASE WHEN NEW.location OPERATOR(public.=) OLD.location THEN ARRAY[public.ST_Y(OLD.location)] ELSE ARRAY[public.ST_Y(OLD.location), public.ST_Y(NEW.location)] END);
    IF (CASE WHEN pg_try_advisory_lock(1868657268, 1) THEN NOT pg_advisory_unlock(1868657268, 1) ELSE true END) THEN
        PERFORM pg_notify('oar_tiles', '');
    END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER bench_row AFTER UPDATE ON api_facilityindex FOR EACH ROW WHEN ({differs}) EXECUTE FUNCTION oar_tiles.note_row()
"""


def measure(bench):
    for width in WIDTHS:
        open_supply_hub.fill(bench, width)
        bench.install_triggers("--config", open_supply_hub.config(bench))
        watch = bench.sql("SELECT id FROM oar_tiles.watch WHERE relation = 'api_facilityindex'::regclass")
        differs = " OR ".join(f"OLD.{name} IS DISTINCT FROM NEW.{name}" for name in WATCHED)
        bench.sql(ROW_TRIGGER.format(watch=watch, differs=differs))
        bench.sql("DROP TABLE IF EXISTS bench_ids; CREATE TABLE bench_ids AS SELECT (row_number() OVER (ORDER BY md5(id)))::int AS n, id FROM api_facilityindex; "
                  "ALTER TABLE bench_ids ADD PRIMARY KEY (n); ANALYZE bench_ids")
        definitions = dict(line.split("|", 1) for line in bench.sql(
            "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'api_facilityindex'::regclass AND NOT tgisinternal").splitlines())
        rows = min(ROWS, bench.count)
        called = f"rows of {bench.sql('SELECT avg(pg_column_size(i.*))::int FROM api_facilityindex AS i')} bytes"
        # A list comes to rows at random: seen by the tiles. The other columns of a back-fill are not.
        compare(bench, definitions, f"{called}, one statement over {rows:,}", rows, one_statement(rows))
        compare(bench, definitions, f"{called}, {STATEMENTS:,} statements in one transaction", min(STATEMENTS, bench.count), many_statements)
        compare(bench, definitions, f"{called}, back-fill that tiles do not see", bench.count, lambda turn: back_fill(bench, f"origin_source = 'turn {turn}'"))
        compare(bench, definitions, f"{called}, back-fill that tiles see", bench.count, lambda turn: back_fill(bench, f"number_of_workers = '{{turn {turn}}}'"))
    commits(bench, definitions)


def switch_triggers(bench, kind, definitions):
    """Only the triggers of a kind are there. A disabled trigger would not do: PostgreSQL fills its transition tables all the same."""
    for name, definition in definitions.items():
        bench.sql(f'DROP TRIGGER IF EXISTS "{name}" ON api_facilityindex')
        if kind == ("row" if name == "bench_row" else "statement"):
            bench.sql(definition)


def one_statement(rows):
    return lambda turn: [f"UPDATE api_facilityindex SET lists = lists || -{turn}, updated_at = now() WHERE id IN (SELECT id FROM bench_ids WHERE n <= {rows})"]


def many_statements(turn):
    return [f"DO $$ DECLARE one record; BEGIN FOR one IN SELECT id FROM bench_ids WHERE n <= {STATEMENTS} LOOP "
            f"UPDATE api_facilityindex SET lists = lists || -{turn}, updated_at = now() WHERE id = one.id; END LOOP; END $$"]


def back_fill(bench, assignment):
    """The statements of each session."""
    blocks = [f"UPDATE api_facilityindex SET {assignment}, updated_at = now() WHERE id IN (SELECT id FROM bench_ids WHERE n > {begin} AND n <= {begin + BLOCK})"
              for begin in range(0, bench.count, BLOCK)]
    return [";\n".join(blocks[number::BLOCK_SESSIONS]) for number in range(BLOCK_SESSIONS) if blocks[number::BLOCK_SESSIONS]]


def compare(bench, definitions, what, rows, sessions_of):
    """Kinds of triggers in turns."""
    took, temporary, turn = {kind: [] for kind in KINDS}, {}, 0
    for _ in range(bench.runs):
        for kind in KINDS:
            turn += 1
            switch_triggers(bench, kind, definitions)
            bench.sql("VACUUM api_facilityindex")
            bench.sql("TRUNCATE oar_tiles.change")
            bench.sql("CHECKPOINT")
            before = temp_bytes(bench)
            took[kind].append(together(bench, sessions_of(turn)))
            temporary[kind] = temp_bytes(bench) - before
    base = median(took["none"])
    for kind in KINDS:
        ratios = [one / other for one, other in zip(took[kind], took["none"])]
        bench.row(f"{what}: {kind} triggers", f"{median(took[kind]):.2f} s", size=f"{temporary[kind] / 1e6:.0f} MB", zooms="",
                  ratio=f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), {(median(took[kind]) - base) / rows * 1e6:+.1f} µs a row")


def temp_bytes(bench):
    return int(bench.sql("SELECT temp_bytes FROM pg_stat_database WHERE datname = current_database()"))


def together(bench, sessions):
    """Seconds that the longest of some sessions takes, by the server's own time."""
    seconds = []

    def runs(text):
        printed = bench.psql(input=f"\\timing on\n{text};\n")
        seconds.append(sum(float(one) for one in re.findall(r"Time: ([0-9.]+) ms", printed)) / 1000)

    threads = [threading.Thread(target=runs, args=[text]) for text in sessions]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    if len(seconds) < len(sessions):
        fail("a session failed (see above)")
    return max(seconds)


def commits(bench, definitions):
    """Sessions that commit one-row updates of rows of their own: without triggers, with them, and while somebody waits for the notices."""
    script = bench.write("commit.sql", f"\\set n random(1, {bench.count // COMMITTERS}) * {COMMITTERS} - :client_id\n"
                         "UPDATE api_facilityindex SET lists = lists || :n::int, updated_at = now() WHERE id = (SELECT id FROM bench_ids WHERE n = :n);\n")
    config = open_supply_hub.config(bench)
    switch_triggers(bench, "none", definitions)
    bench.install_triggers("--config", config)
    done = subprocess.run([*bench.command("seed"), "--config", config, "--zoom", "1"], capture_output=True, text=True)
    if done.returncode:
        fail(done.stderr)
    # One who listens all the time; a watch that does nothing else than listen, as watches do; and one that publishes.
    listening = bench.psql_command()
    watching = [*bench.command("reseed"), "--config", config, "--watch", "--or-seed"], None
    waiting = [*watching[0], "--debounce", "1h"], None
    kinds = {"no triggers": None, "triggers": None, "triggers, and a listener": listening, "triggers, and a watch that publishes nothing": waiting,
             "triggers, and reseed --watch": watching}
    rates = {kind: [] for kind in kinds}
    for _ in range(bench.runs):
        for kind, watch in kinds.items():
            switch_triggers(bench, "none", definitions)
            if kind != "no triggers":
                bench.install_triggers("--config", config)
            bench.sql("VACUUM api_facilityindex")
            with contextlib.ExitStack() as stack:
                if watch:
                    command, env = watch
                    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=open(bench.file("watch.log"), "w"), text=True, env=env)
                    stack.enter_context(ended(process))
                if watch is listening:
                    process.stdin.write("SELECT pg_advisory_lock_shared(1868657268, 1);\nLISTEN oar_tiles;\nSELECT pg_sleep(0.05) \\watch 0.05\n")
                    process.stdin.flush()
                rates[kind].append(committed(bench, script))
                if watch and process.poll() is not None:
                    fail(f"{kind}: it ended: {open(bench.file('watch.log')).read()[-2000:]}")
    for kind, own in rates.items():
        shares = [one / other for one, other in zip(own, rates["no triggers"])]
        more = [one / other for one, other in zip(own, rates["triggers"])]
        bench.row(f"{COMMITTERS} sessions that commit, {kind}", f"{median(own):.0f} a second", zooms="",
                  ratio=f"{median(shares):.2f} of without triggers ({min(shares):.2f} to {max(shares):.2f}), {median(more):.2f} of with triggers")


def committed(bench, script):
    """Transactions a second."""
    done = subprocess.run([f"{bench.pg_bindir}/pgbench", "-n", "-M", "prepared", "-c", str(COMMITTERS), "-j", "2", "-T", str(COMMIT_SECONDS), "-f", script, bench.url],
                          capture_output=True, text=True)
    found = re.search(r"tps = ([0-9.]+)", done.stdout)
    if not found:
        fail(f"pgbench failed: {done.stderr}")
    return float(found.group(1))
