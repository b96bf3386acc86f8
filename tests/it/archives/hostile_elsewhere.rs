//! What somebody else made, to do harm, as in `hostile`: PMTiles, directories, buckets.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::archives::hostile::{MEMORY, bomb, ended, refused, with_tile};
use crate::support::damaged::{packed, pmtiles, pmtiles_directory, put_varint, small_tile};
use crate::support::folder::Folder;
use crate::support::program::program;

#[test]
fn a_pmtiles_archive_whose_directories_lie_is_refused() {
    let folder = Folder::new();
    let tile = small_tile();
    let metadata = b"{\"vector_layers\": []}";
    let root = |entries: &[(u64, u64, u64, u64)]| pmtiles_directory(entries);
    let length = tile.len() as u64;
    let mut count = Vec::new();
    put_varint(&mut count, 1 << 60);
    // A leaf whose only entry is a pointer to itself.
    let itself = root(&[(0, 0, 5, 0)]);
    assert_eq!(itself.len(), 5);
    for (name, archive, text) in [
        (
            "run",
            pmtiles(&root(&[(0, 2_000_000, length, 0)]), b"", metadata, &tile, length, false),
            "tiles, the most that are read of ",
        ),
        (
            "long run",
            pmtiles(&root(&[(0, u64::from(u32::MAX), length, 0)]), b"", metadata, &tile, length, false),
            "it holds more than 67108864 tiles",
        ),
        ("count", pmtiles(&count, b"", metadata, &tile, length, false), "it counts 1152921504606846976 entries"),
        (
            "circle",
            pmtiles(&root(&[(0, 0, 5, 0)]), &itself, metadata, &tile, length, false),
            "its directories are nested more than 4 deep",
        ),
        (
            "bomb",
            pmtiles(&bomb(20), b"", metadata, &tile, length, true),
            "its root directory cannot be unpacked: it unpacks to more than 16777216 bytes",
        ),
        (
            "metadata",
            pmtiles(&packed(&root(&[(0, 1, length, 0)])), b"", &bomb(20), &tile, length, true),
            "its metadata cannot be unpacked: it unpacks to more than 16777216 bytes",
        ),
        ("outside", pmtiles(&root(&[(0, 1, u64::from(u32::MAX), 1 << 40)]), b"", metadata, &tile, length, false), ""),
    ] {
        let path = folder.beside(&format!("{name}.pmtiles"));
        std::fs::write(&path, archive).unwrap();
        refused(&folder, &path, text);
    }
    // Four gigabytes that are one tile: of zeros, so the file takes no room.
    let path = folder.beside("tile.pmtiles");
    let long = u64::from(u32::MAX);
    let archive = pmtiles(&root(&[(0, 1, long, 0)]), b"", metadata, b"", long, false);
    std::fs::write(&path, &archive).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(archive.len() as u64 + long).unwrap();
    refused(&folder, &path, "the tile of tile id 0 has 4294967295 bytes, more than the 67108864 that are read");
    // The same bytes as a million tiles.
    let path = folder.beside("repeated.pmtiles");
    let long = 4_000_000;
    let archive = pmtiles(&root(&[(0, 1_000_000, long, 0)]), b"", metadata, &vec![7; 4_000_000], long, false);
    std::fs::write(&path, archive).unwrap();
    refused(&folder, &path, "its tiles add up to a hundred times its size");
}

#[test]
fn what_is_no_file_of_a_size_is_not_read_in_a_directory() {
    let folder = Folder::new();
    let made = |name: &str| {
        let path = folder.beside(name);
        std::fs::create_dir_all(path.join("0/0")).unwrap();
        path
    };
    let fifo = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    let target = made("fifo");
    fifo(&target.join("0/0/0.pbf"));
    refused(&folder, &target, "0/0/0.pbf: it is no regular file");
    let target = made("link");
    symlink("/etc/passwd", target.join("0/0/0.pbf")).unwrap();
    refused(&folder, &target, "0/0/0.pbf: it is a symbolic link, which is not followed here");
    let target = made("endless");
    symlink("/dev/zero", target.join("0/0/0.pbf")).unwrap();
    refused(&folder, &target, "0/0/0.pbf: it is a symbolic link, which is not followed here");
    let target = made("long");
    std::fs::File::create(target.join("0/0/0.pbf")).unwrap().set_len(1 << 40).unwrap();
    refused(&folder, &target, "0/0/0.pbf: it is larger than the 64 MB that are read");
    let target = made("note");
    std::fs::write(target.join("0/0/0.pbf"), small_tile()).unwrap();
    std::fs::File::create(target.join("metadata.json")).unwrap().set_len(1 << 30).unwrap();
    refused(&folder, &target, "metadata.json: it is larger than the 16 MB that are read");
    std::fs::remove_file(target.join("metadata.json")).unwrap();
    fifo(&target.join("metadata.json"));
    refused(&folder, &target, "metadata.json: it is no regular file");
    // A list of versions that leads out of the target.
    std::fs::remove_file(target.join("metadata.json")).unwrap();
    let latest = "{\"version\": \"../../../../etc\", \"versions\": []}";
    std::fs::write(target.join("latest.json"), latest).unwrap();
    refused(&folder, &target, "is no name of a version");
    // A folder of tiles that is a link is not looked into.
    let target = made("folders");
    std::fs::remove_dir_all(target.join("0")).unwrap();
    symlink(folder.beside("long/0"), target.join("0")).unwrap();
    refused(&folder, &target, "it has neither a metadata.json nor a file named as {z}/{x}/{y}.pbf");
    // Only folders in which tiles can lie are looked into: the whole machine takes no time.
    refused(&folder, Path::new("/"), "/ is no directory of tiles (it has neither a metadata.json nor a file named as ");
    refused(&folder, Path::new("/proc"), "/proc is no directory of tiles");
}

#[test]
fn a_pipe_beside_an_archive_holds_nobody_up() {
    let folder = Folder::new();
    for end in ["-journal", "-wal", "-shm"] {
        let path = with_tile(&folder, &format!("a{end}"), &small_tile());
        let pipe = folder.beside(&format!("a{end}.mbtiles{end}"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        refused(&folder, &path, &format!("{} beside it is no regular file: remove that", pipe.display()));
    }
}

/// A server that says yes to everything, and sends for an object whose name holds a text bytes without an end.
fn endless_server(text: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let (mut first, mut line) = (String::new(), String::from("-"));
                    if reader.read_line(&mut first).unwrap_or(0) == 0 {
                        return;
                    }
                    while !line.trim().is_empty() {
                        line.clear();
                        if reader.read_line(&mut line).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    let answer = |status: &str, body: &str| {
                        format!(
                            "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        )
                    };
                    let sent = if first.contains("list-type=2") {
                        let list = "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/0/0/0.pbf</Key><Size>9</Size></Contents></ListBucketResult>";
                        stream.write_all(answer("200 OK", list).as_bytes())
                    } else if first.contains(text) {
                        let head = "HTTP/1.1 200 OK\r\nETag: \"a\"\r\nTransfer-Encoding: chunked\r\n\r\n";
                        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
                        let mut sent = stream.write_all(head.as_bytes());
                        while sent.is_ok() {
                            sent = stream.write_all(chunk.as_bytes());
                        }
                        sent
                    } else {
                        stream.write_all(answer("404 Not Found", "<Error><Code>NoSuchKey</Code></Error>").as_bytes())
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            });
        }
    });
    endpoint
}

#[test]
fn an_object_in_s3_without_an_end_is_refused() {
    let folder = Folder::new();
    for (text, object) in [("0.pbf", "s3://bucket/p/0/0/0.pbf"), ("metadata.json", "s3://bucket/p/metadata.json")] {
        let config = folder.config(&format!(
            "[s3]\nendpoint = \"{}\"\nregion = \"us-east-1\"\npath_style = true\n",
            endless_server(text)
        ));
        for verb in ["verify", "inspect", "copy"] {
            let mut command = program();
            command.args([verb, "--config", &config, "s3://bucket/p/"]);
            if verb == "copy" {
                command.arg(folder.beside("copied.mbtiles"));
            }
            command.env("AWS_ACCESS_KEY_ID", "k").env("AWS_SECRET_ACCESS_KEY", "s");
            ended(&command, MEMORY).fails(1, &[&format!("{object} is too large to be read")]);
        }
    }
}
