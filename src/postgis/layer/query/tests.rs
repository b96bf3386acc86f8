use super::*;

fn filled(text: &str) -> String {
    let [bbox, zoom, pixel] = ["B", "Z", "P"].map(str::to_owned);
    let item = Query::new(text).unwrap().sql_item("l", &PlaceholderSql { bbox, zoom, pixel });
    item.strip_prefix("(\n").and_then(|item| item.strip_suffix("\n) AS \"l\"")).unwrap().to_owned()
}

#[test]
fn placeholders_are_filled_in_in_any_case_but_not_in_literals_and_comments() {
    for (text, expected) in [
        ("SELECT * FROM t WHERE g && !BBOX!", "SELECT * FROM t WHERE g && (B)"),
        ("SELECT g &&!bbox!,!Zoom!,x=!z!", "SELECT g &&(B),(Z),x=(Z)"),
        ("SELECT !pixel_width!*!PIXEL_HEIGHT!", "SELECT (P)*(P)"),
        ("SELECT !scale_denominator!::int", "SELECT (P / 0.00028::float8)::int"),
        ("SELECT '!bbox! ''!x!', \"!zoom! \"\"!\"", "SELECT '!bbox! ''!x!', \"!zoom! \"\"!\""),
        ("SELECT E'\\'!a!', e'\\\\', !zoom!", "SELECT E'\\'!a!', e'\\\\', (Z)"),
        // The name before the text is no E.
        ("SELECT 'a\\', one'\\', !zoom!", "SELECT 'a\\', one'\\', (Z)"),
        ("SELECT $$!a!$$, $b$ !c! $$ $b$, a$1, !zoom!", "SELECT $$!a!$$, $b$ !c! $$ $b$, a$1, (Z)"),
        ("SELECT 1 -- !a! ;\n, !zoom!", "SELECT 1 -- !a! ;\n, (Z)"),
        ("SELECT /* !a! /* ; */ !b! */ !zoom!", "SELECT /* !a! /* ; */ !b! */ (Z)"),
        (
            "SELECT a != b, a !~ b, a !~~* b, !!q, a!=b, zoom!='a'",
            "SELECT a != b, a !~ b, a !~~* b, !!q, a!=b, zoom!='a'",
        ),
        ("SELECT a <> !zoom!, b !=!zoom!", "SELECT a <> (Z), b !=(Z)"),
        ("SELECT 1 ; -- the end\n", "SELECT 1  -- the end\n"),
        ("SELECT 1;;", "several"),
    ] {
        if expected == "several" {
            assert_eq!(Query::new(text), Err(QueryError::Several), "{text}");
        } else {
            assert_eq!(filled(text), expected);
        }
    }
}

#[test]
fn a_query_that_cannot_be_used_says_what_to_write() {
    for (text, message) in [
        ("", "is empty: write a SELECT that gives the geometry, the key and the properties"),
        (" -- nothing\n;", "is empty: write a SELECT that gives the geometry, the key and the properties"),
        ("SELECT 1; SELECT 2", "has a ; before its end: write one SELECT; only its end may have one"),
        (
            "SELECT !box!",
            "has !box!, which is no placeholder: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!",
        ),
        (
            "SELECT !bbox",
            "has !bbox, which lacks an exclamation mark: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!",
        ),
        (
            "g && bbox!)",
            "has bbox!, which lacks an exclamation mark: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!",
        ),
        (
            "SELECT !Y!",
            "has !Y!: the column and row of a tile are not known when tiles are planned. Select with !bbox!, or write a property such as x = \"!x!\"",
        ),
        (
            "SELECT $12",
            "has the parameter $12, for which there is no value: there is !bbox!, !zoom!, !pixel_width!, !pixel_height!, !scale_denominator!",
        ),
        (
            "SELECT st_asmvtgeom(g, !bbox!)",
            "calls ST_AsMVTGeom: let it give the geometry itself; it is cut to the tile and written afterwards",
        ),
    ] {
        assert_eq!(Query::new(text).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn the_placeholders_and_limit_of_a_query_are_found() {
    for (text, zoom, bbox, limit) in [
        ("SELECT limit_ FROM t", false, false, None),
        ("SELECT 1 WHERE g && !bbox! LIMIT 5", false, true, Some("LIMIT")),
        ("SELECT !pixel_width! FETCH\nfirst 5 ROWS ONLY", true, false, Some("FETCH FIRST")),
        ("SELECT 'limit', !scale_denominator!", true, false, None),
    ] {
        let query = Query::new(text).unwrap();
        assert_eq!((query.asks_zoom(), query.asks_box(), query.limit()), (zoom, bbox, limit), "{text}");
    }
}

#[test]
fn queries_that_differ_in_a_placeholder_stay_different() {
    let neutral = |text: &str| Query::new(text).unwrap().sql_item_without_values("l");
    let all = ["SELECT !zoom!", "SELECT !pixel_width!", "SELECT !scale_denominator!", "SELECT !bbox!"].map(neutral);
    let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), 4, "{all:?}");
}
