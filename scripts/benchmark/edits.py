"""Reseeds of a large PMTiles archive after few edits: a file beside a copy of it, an object in S3 beside the copy that the server makes of it."""

import re
import socket
import subprocess
import sys
import threading

from .bench import ROOT, listed, median, megabytes
from .targets import s3_config

# Bytes of noise in a tile. Each tile shows one row, whose noise no compression makes shorter.
TILE = 100_000
ZOOM = "14"

TABLE = f"""
CREATE EXTENSION IF NOT EXISTS postgis;
CREATE FUNCTION noise() RETURNS text LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(string_agg(sha512((random()::text || n)::bytea), ''), 'base64') FROM generate_series(1, {TILE // 64}) n $$;
CREATE TABLE noise (id int PRIMARY KEY, text text NOT NULL, geom geometry(Point, 3857) NOT NULL);
ALTER TABLE noise ALTER text SET STORAGE EXTERNAL;
"""
# One row in the middle of every second tile.
FILL = """
INSERT INTO noise SELECT n, noise(), ST_SetSRID(ST_MakePoint(
    ((4000.5 + n % 2000 * 2) / 16384 - 0.5) * 40075016.68, (0.5 - (4000.5 + n / 2000 * 2) / 16384) * 40075016.68), 3857)
FROM generate_series(1, {}) n;
"""
COPY = ("import boto3, sys, time; s3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1'); begun = time.monotonic(); "
        "s3.copy_object(Bucket='bench', Key='copy.pmtiles', CopySource='bench/edited.pmtiles'); print(time.monotonic() - begun)")
# The same in parts of 16 MiB, four at a time, as an edit has what stays copied.
PARTS = """
import boto3, concurrent.futures, sys, time
s3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1')
length, size = s3.head_object(Bucket='bench', Key='edited.pmtiles')['ContentLength'], 16 << 20
begun = time.monotonic()
of = {'Bucket': 'bench', 'Key': 'parts.pmtiles'}
of['UploadId'] = s3.create_multipart_upload(**of)['UploadId']
def copied(number):
    done = s3.upload_part_copy(**of, PartNumber=number + 1, CopySource='bench/edited.pmtiles', CopySourceRange=f'bytes={number * size}-{min(length, (number + 1) * size) - 1}')
    return {'PartNumber': number + 1, 'ETag': done['CopyPartResult']['ETag']}
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    parts = list(pool.map(copied, range(-(-length // size))))
s3.complete_multipart_upload(**of, MultipartUpload={'Parts': parts})
print(time.monotonic() - begun)
"""


class Counted:
    """A proxy in front of the S3 server that counts requests and bytes."""

    def __init__(self, endpoint):
        host, _, port = endpoint.removeprefix("http://").partition(":")
        self.upstream = (host, int(port))
        self.requests, self.sent, self.received = 0, 0, 0
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return  # It was closed.
            server = socket.create_connection(self.upstream)
            threading.Thread(target=self.carry, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self.carry, args=(server, client, False), daemon=True).start()

    def carry(self, source, sink, is_sent):
        try:
            while piece := source.recv(1 << 18):
                with self.lock:
                    if is_sent:
                        self.sent += len(piece)
                        self.requests += len(re.findall(rb"(?:GET|PUT|POST|HEAD|DELETE) /[^ \r\n]* HTTP/1\.1\r\n", piece))
                    else:
                        self.received += len(piece)
                sink.sendall(piece)
        except OSError:
            pass  # The other side has closed.
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.listener.close()


def measure(bench):
    bench.begin_case(bench.options.megabytes * 1_000_000 // TILE, ZOOM)
    edits = min(bench.options.edits, bench.count)
    bench.say(f"{bench.count} tiles of {TILE} bytes …")
    bench.sql(TABLE)
    bench.sql(FILL.format(bench.count))
    bench.sql("CREATE INDEX ON noise USING gist (geom); VACUUM ANALYZE noise;")
    layer = '[[layer]]\nname = "noise"\ntable = "noise"\ngeometry = "geom"\nkey = ["id"]\nproperties = ["text"]\n'
    with open(s3_config(bench)) as text:
        s3 = text.read().partition("[s3]")[2]
    config = bench.write("noise.toml", f"{layer}[s3]{s3}")
    bench.install_triggers("--config", config)
    local, remote = bench.file("edited.pmtiles"), "s3://bench/edited.pmtiles"
    flags = ["--config", config, "--zoom", ZOOM]
    for name, target in [("a file", local), ("an object in S3", remote)]:
        seconds, told = bench.timed("seed", "--output", target, *flags)
        bench.row(f"seed of {name}", f"{seconds:.2f} s", f"{told['peak_mb']:.0f} MB", f"{told['written']:,}",
                  f"{told['bytes'] / 1e6:.0f} MB")
    reseed = ["--config", config]
    files, objects = turns(bench, edits, local, remote, reseed)
    for name, own in [("a file", files), ("an object in S3", objects)]:
        ratios = [one / beside for one, _, beside in own]
        beside = "cp and sync" if own is files else "the server's own copy"
        told = own[-1][1]
        bench.row(f"reseed of {name}, {edits} edits", f"{median(seconds for seconds, _, _ in own):.2f} s",
                  f"{max(told['peak_mb'] for _, told, _ in own):.0f} MB", f"{told['written']:,}", f"{told['bytes'] / 1e6:.0f} MB",
                  f"{median(ratios):.2f} x {beside} ({listed(ratios)})")
        bench.row(f"  beside: {beside}", f"{median(beside for _, _, beside in own):.2f} s")
    in_parts = [copied(bench, PARTS) for _ in range(bench.runs)]
    bench.row("  beside: the server's own copy in parts", f"{median(in_parts):.2f} s")
    counted(bench, edits, config, remote)


def edit(bench, edits):
    bench.sql(f"UPDATE noise SET text = noise() WHERE id IN (SELECT id FROM noise ORDER BY random() LIMIT {edits})")


def copied(bench, script):
    """The seconds that a script with boto3 prints."""
    python = ROOT / "target" / "readers" / "bin" / "python"
    command = [str(python) if python.exists() else sys.executable, "-c", script, bench.s3]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def turns(bench, edits, local, remote, flags):
    """For each turn and kind of target: seconds, the report, and the seconds of a copy."""
    files, objects = [], []
    for _ in range(bench.runs):
        edit(bench, edits)
        copy, _ = bench.measured(["bash", "-c", 'cp "$0" "$1" && sync "$1"', local, bench.file("copy.pmtiles")])
        files.append((*bench.timed("reseed", "--output", local, *flags), copy))
        copy = copied(bench, COPY)
        objects.append((*bench.timed("reseed", "--output", remote, *flags), copy))
    return files, objects


def counted(bench, edits, config, remote):
    """Once more through a proxy that counts, which takes time of its own."""
    edit(bench, edits)
    proxy = Counted(bench.s3)
    with open(config) as text:
        through = bench.write("counted.toml", text.read().replace(bench.s3, proxy.endpoint))
    _, told = bench.timed("reseed", "--output", remote, "--config", through)
    proxy.close()
    bench.row("  sent to S3, once more", "", tiles=f"{told['written']:,}", size=f"{told['bytes'] / 1e6:.1f} MB",
              ratio=f"{proxy.requests} requests, {proxy.sent / 1e6:.1f} MB sent, {proxy.received / 1e6:.1f} MB fetched; the file has "
              f"{megabytes(bench.file('edited.pmtiles'))}")
