"""Memory of `oar-tiles serve` while clients leave their answers unread, above that of the idle server. Needs no load tool: each client is a socket
that reads nothing, or 16 bytes at a time."""

import contextlib
import http.client
import socket
import sqlite3
import struct
import threading
import time

from .serve import oar_tiles, path_of

# One connection of HTTP/2 with all the streams that the server allows, and a window of 0 bytes; and connections of HTTP/1.1.
STREAMS, TRICKLES = 32, 40
TRICKLED_BYTES, TRICKLE_PAUSE = 16, 0.2
STALLED_SECONDS, TRICKLE_SECONDS = 10, 75
# What docs/serving.md promises, in MB.
MOST_STALLED, MOST_TRICKLED = 256, 400
# Frame types and flags of RFC 9113, and the static entries of RFC 7541 for GET, http and the path.
HEADERS, SETTINGS, END_STREAM_AND_HEADERS, INITIAL_WINDOW_SIZE = 1, 4, 5, 4
GET, HTTP, PATH, AUTHORITY = 0x82, 0x86, 0x04, 0x01
SETTLE_SECONDS = 1


def measure(bench):
    archive = bench.file("unread.mbtiles")
    bench.timed("seed", "--zoom", bench.zooms, "--output", archive)
    paths = largest(archive)
    for what, most, seconds, begin in [
        (f"HTTP/2, {STREAMS} streams, window 0", MOST_STALLED, STALLED_SECONDS, stalled),
        (f"{TRICKLES} connections, {TRICKLED_BYTES} bytes at a time", MOST_TRICKLED, TRICKLE_SECONDS, trickled),
    ]:
        for cache in ["cold", "warm"]:
            with oar_tiles(bench, archive) as server, contextlib.ExitStack() as connections:
                address = server.url.removeprefix("http://").rstrip("/").split(":")
                if cache == "warm":
                    read_all(address, paths)
                time.sleep(SETTLE_SECONDS)
                idle = server.memory()
                begin(address, paths, connections)
                end, peak = time.monotonic() + seconds, idle
                while time.monotonic() < end:
                    time.sleep(0.02)
                    peak = max(peak, server.memory())
                bench.row(f"serve, unread answers: {what}, {cache} cache", f"{seconds} s", f"{peak:.0f} MB",
                          ratio=f"{peak - idle:.0f} MB above the idle server, to be at most {most}")


def largest(archive):
    """The paths of the largest tiles."""
    with sqlite3.connect(f"file:{archive}?mode=ro", uri=True) as tiles:
        rows = tiles.execute("SELECT zoom_level, tile_column, (1 << zoom_level) - 1 - tile_row FROM tiles "
                             f"ORDER BY length(tile_data) DESC LIMIT {TRICKLES}").fetchall()
    return [path_of(row) + ".pbf" for row in rows]


def read_all(address, paths):
    connection = http.client.HTTPConnection(address[0], int(address[1]))
    for path in paths:
        connection.request("GET", path)
        connection.getresponse().read()
    connection.close()


def stalled(address, paths, connections):
    def frame(kind, flags, stream, payload):
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
    for number, path in enumerate(paths[:STREAMS]):
        fields = bytes([GET, HTTP, PATH, len(path)]) + path.encode() + bytes([AUTHORITY, 1]) + b"x"
        sent += frame(HEADERS, END_STREAM_AND_HEADERS, 2 * number + 1, fields)
    connection = connections.enter_context(socket.create_connection(address))
    connection.sendall(sent)


def trickled(address, paths, connections):
    def read(connection):
        # Ends when the server cuts the client off, or when the measurement closes the connection.
        with contextlib.suppress(OSError):
            while connection.recv(TRICKLED_BYTES):
                time.sleep(TRICKLE_PAUSE)

    for path in paths:
        connection = connections.enter_context(socket.socket())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address[0], int(address[1])))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        threading.Thread(target=read, args=[connection], daemon=True).start()
