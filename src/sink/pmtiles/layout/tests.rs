//! Tests the layout against the specification's own examples, and against bytes that contradict themselves.

use super::*;

const fn entry(id: u64, offset: u64, length: u32, run: u32) -> Entry {
    Entry { id, offset, length, run }
}

#[test]
fn numbers_are_those_of_protocol_buffers() {
    // 300 is the example of the encoding guide that section 4.2 refers to.
    for (number, bytes) in [
        (0, &[0][..]),
        (1, &[1]),
        (127, &[0x7f]),
        (128, &[0x80, 1]),
        (300, &[0xac, 2]),
        (u64::MAX, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]),
    ] {
        let mut put_there = Vec::new();
        put(&mut put_there, number);
        assert_eq!((&*put_there, VarintReader(bytes).next()), (bytes, Ok(number)));
    }
    for bytes in [&[][..], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
        assert_eq!(VarintReader(bytes).next(), Err(LayoutError::Number), "{bytes:?}");
    }
    assert_eq!(VarintReader(&[0x80, 0x80, 0x80, 0x80, 0x10]).short(), Err(LayoutError::Number), "2^32");
}

#[test]
fn a_directory_is_laid_out_as_the_specification_says() {
    // The tile ids are the example of section 4.2: 5, 42, 69 are stored as the differences 5, 37, 27.
    let entries = [entry(5, 1337, 42, 3), entry(42, 1379, 200, 1), entry(69, 0, 7, 0)];
    let bytes = [3, 5, 37, 27, 3, 1, 0, 42, 0xc8, 1, 7, 0xba, 0x0a, 0, 1];
    assert_eq!(directory_to_bytes(&entries), bytes);
    assert_eq!(directory_from_bytes(&bytes).unwrap(), entries);
    assert_eq!((directory_to_bytes(&[]), directory_from_bytes(&[0]).unwrap()), (vec![0], vec![]));
    for end in 0..bytes.len() {
        assert!(directory_from_bytes(&bytes[..end]).is_err(), "cut off at {end}");
    }
    let extremes = [entry(0, u64::MAX - 1 - u64::from(u32::MAX), u32::MAX, u32::MAX), entry(u64::MAX - 1, 9, 1, 1)];
    assert_eq!(directory_from_bytes(&directory_to_bytes(&extremes)).unwrap(), extremes);
}

#[test]
fn a_directory_that_contradicts_itself_is_refused() {
    for (bytes, error) in [
        (&[0xff, 0xff, 0x7f, 1, 1, 1, 1][..], LayoutError::Count(0x1f_ffff)),
        (&[2, 5, 0, 1, 1, 1, 1, 1, 0], LayoutError::Order),
        (&[2, 5, 1, 2, 1, 1, 1, 1, 0], LayoutError::Overlap(5)),
        (&[1, 5, 1, 0, 1], LayoutError::Nothing(5)),
        (&[1, 5, 1, 1, 0], LayoutError::Nowhere(5)),
    ] {
        assert_eq!(directory_from_bytes(bytes), Err(error), "{bytes:?}");
    }
    let beyond = [1, 5, 1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    assert_eq!(directory_from_bytes(&beyond), Err(LayoutError::Nowhere(5)));
    let last = [entry(u64::MAX, 0, 1, 1)];
    assert_eq!(directory_from_bytes(&directory_to_bytes(&last)), Err(LayoutError::Overlap(u64::MAX)));
}

#[test]
fn a_header_has_each_field_where_the_specification_puts_it() {
    let header = Header {
        root: Section { offset: 127, length: 0x0102 },
        metadata: Section { offset: 3, length: 4 },
        leaves: Section { offset: 5, length: 6 },
        tiles: Section { offset: 7, length: 0x0807_0605_0403_0201 },
        addressed: 9,
        entries: 10,
        contents: 11,
        clustered: true,
        internal: PmtilesCompression::Gzip,
        packing: PmtilesCompression::None,
        tile_type: TileType::MVT,
        min_zoom: 2,
        max_zoom: 14,
        bounds: [-1_800_000_000, -850_511_287, 1_800_000_000, 1],
        center_zoom: 3,
        center: [-2, 3],
    };
    let bytes = header.to_bytes();
    assert_eq!(Header::from_bytes(&bytes).unwrap(), header);
    assert_eq!(&bytes[..18], b"PMTiles\x03\x7f\0\0\0\0\0\0\0\x02\x01");
    for (at, expected) in [(24, 3), (32, 4), (40, 5), (48, 6), (56, 7), (72, 9), (80, 10), (88, 11)] {
        assert_eq!(bytes[at..at + 8], [expected, 0, 0, 0, 0, 0, 0, 0], "{at}");
    }
    assert_eq!(bytes[64..72], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(bytes[96..102], [1, 2, 1, 1, 2, 14]);
    assert_eq!(bytes[102..106], (-1_800_000_000_i32).to_le_bytes(), "the longitude first");
    assert_eq!(bytes[118..], [3, 0xfe, 0xff, 0xff, 0xff, 3, 0, 0, 0]);
    assert_eq!(Header::from_bytes(&bytes[..126]), Err(LayoutError::ShortHeader(126)));
    assert_eq!(Header::from_bytes(b"SQLite format 3"), Err(LayoutError::Magic));
    let mut later = bytes;
    later[7] = 4;
    assert_eq!(Header::from_bytes(&later), Err(LayoutError::Version(4)));
}
