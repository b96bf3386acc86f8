"""A PMTiles archive as other people's readers see it.

usage: look_at_pmtiles.py FILE [ZOOM]

Prints one line a tile of the PyPI package `pmtiles`, "z x y md5", then one JSON object: the header, the metadata, every rule
broken of those that `pmtiles verify` (go-pmtiles) makes, and, if a zoom is given, what GDAL reads at it.
"""

import hashlib
import json
import os
import sys

from pmtiles.reader import MmapSource, Reader, all_tiles
from pmtiles.tile import deserialize_directory, tileid_to_zxy


def entries_below(get_bytes, header, offset, length):
    for entry in deserialize_directory(get_bytes(offset, length)):
        if entry.run_length:
            yield entry
        else:
            yield from entries_below(get_bytes, header, header["leaf_directory_offset"] + entry.offset, entry.length)


def broken_rules(get_bytes, header, metadata, size):
    sections = {name: (header[name + "_offset"], header[name + "_length"])
                for name in ("root", "metadata", "leaf_directory", "tile_data")}
    for name, (offset, length) in sections.items():
        if offset == 0:
            yield f"{name} at 0"
        if offset + length > size:
            yield f"{name} ends behind the file"
    if sum(sections["root"]) > 16384:
        yield "root ends behind 16 KiB"
    rest = sum(length for name, (_, length) in sections.items() if name != "root")
    if size not in (127 + sections["root"][1] + rest, 16384 + rest):
        yield f"{size} bytes are not the sum of the sections"

    addressed = count = expected = behind = 0
    contents = {}
    first = last = None
    for entry in entries_below(get_bytes, header, *sections["root"]):
        if entry.tile_id < behind:
            yield f"{entry.tile_id} comes after {behind}"
        behind = entry.tile_id + entry.run_length
        first = entry.tile_id if first is None else first
        # go-pmtiles looks at the begin of the last entry, others at the end of its run: it has to be the same zoom.
        if tileid_to_zxy(entry.tile_id)[0] != tileid_to_zxy(behind - 1)[0]:
            yield f"the run at {entry.tile_id} crosses zooms"
        last = entry.tile_id
        addressed += entry.run_length
        count += 1
        if entry.offset not in contents:
            if header["clustered"] and entry.offset != expected:
                yield f"{entry.tile_id} is out of order"
            expected += entry.length
        if contents.setdefault(entry.offset, entry.length) != entry.length:
            yield f"{entry.tile_id} has another length than its like"
        if entry.offset + entry.length > sections["tile_data"][1]:
            yield f"{entry.tile_id} lies outside of the tile data"
    for name, found in (("addressed_tiles_count", addressed), ("tile_entries_count", count),
                        ("tile_contents_count", len(contents))):
        if header[name] != found:
            yield f"{name} is {header[name]}, found {found}"
    # Not a rule of go-pmtiles: bytes that no entry names, beyond those that edits have left and the metadata counts.
    if sum(contents.values()) + metadata.get("oar_tiles_dead_bytes", 0) != sections["tile_data"][1]:
        yield "orphaned bytes in the tile data"
    if first is not None:
        for name, tile_id in (("min_zoom", first), ("max_zoom", last)):
            if header[name] != tileid_to_zxy(tile_id)[0]:
                yield f"{name} is {header[name]}, found {tileid_to_zxy(tile_id)[0]}"
    if not header["min_zoom"] <= header["center_zoom"] <= header["max_zoom"]:
        yield "center_zoom is outside"
    if header["min_lon_e7"] >= header["max_lon_e7"] or header["min_lat_e7"] >= header["max_lat_e7"]:
        yield "the bounds have no area"


def seen_by_gdal(path, zoom):
    import pyogrio

    layers = pyogrio.list_layers(path)
    seen = {"layers": [str(name) for name, _ in layers]}
    info = pyogrio.read_info(path, layer=seen["layers"][0], ZOOM_LEVEL=zoom)
    _, _, geometry, fields = pyogrio.raw.read(path, layer=seen["layers"][0], ZOOM_LEVEL=zoom)
    seen["fields"] = sorted(str(name) for name in info["fields"])
    seen["features"] = len(geometry)
    seen["distinct"] = len(set(fields[list(info["fields"]).index("number")].tolist()))
    return seen


def main():
    path = sys.argv[1]
    with open(path, "rb") as file:
        get_bytes = MmapSource(file)
        reader = Reader(get_bytes)
        header = reader.header()
        for number, ((z, x, y), tile) in enumerate(all_tiles(get_bytes)):
            print(z, x, y, hashlib.md5(tile).hexdigest())
            # Looking a tile up reads the header and directories anew each time.
            if number % 997 == 0 and reader.get(z, x, y) != tile:
                sys.exit(f"{z}/{x}/{y} is listed and not found")
        told = {
            "header": {name: getattr(value, "name", value) for name, value in header.items()},
            "metadata": reader.metadata(),
            "broken": list(broken_rules(get_bytes, header, reader.metadata(), os.path.getsize(path))),
        }
    if len(sys.argv) > 2:
        told["gdal"] = seen_by_gdal(path, sys.argv[2])
    print(json.dumps(told))


main()
