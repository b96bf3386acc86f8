//! Decides which tables and views of another program's archive are read: tables, and views over columns of one table,
//! or of two tables that are joined by one or two columns each (the layouts of Mapbox, tippecanoe and Planetiler).
//! Reading any other view may never end.

use rusqlite::{Connection, OptionalExtension as _};

/// The longest definition of a view that is read, in bytes: common ones have 300.
const MAX_VIEW: usize = 10_000;

/// What a name stands for in the schema.
enum Defined {
    Nothing,
    Table,
    Virtual,
    View(String),
    LongView,
}

/// The reason why a table or view of an archive is not read; `None` if it is read. Reads only the definition, so no
/// view is evaluated.
pub(crate) fn unfit(connection: &Connection, name: &str) -> rusqlite::Result<Option<String>> {
    let tables = match defined(connection, name)? {
        Defined::Nothing => return Ok(Some(format!("it is an SQLite file without the table {name}"))),
        Defined::Table => vec![name.to_owned()],
        Defined::Virtual => return Ok(Some(format!("its {name} is a virtual table, which is not read"))),
        Defined::LongView => {
            return Ok(Some(format!("its {name} is a view whose definition has more than {MAX_VIEW} bytes")));
        }
        Defined::View(sql) => match tables_of_view(&sql) {
            Some(tables) => tables,
            None => {
                return Ok(Some(format!(
                    "its {name} is a view other than columns of one table, or of two that are joined by one or two columns each: only such views are read"
                )));
            }
        },
    };
    for table in tables {
        match defined(connection, &table)? {
            Defined::Table => {}
            _ => return Ok(Some(format!("its {name} shows {table}, which is no table"))),
        }
        let mut computed = connection.prepare("SELECT count(*) FROM pragma_table_xinfo(?1) WHERE hidden <> 0")?;
        if computed.query_row([&table], |row| row.get::<_, i64>(0))? > 0 {
            return Ok(Some(format!("its table {table} has columns that are computed, which are not read")));
        }
    }
    Ok(None)
}

fn defined(connection: &Connection, name: &str) -> rusqlite::Result<Defined> {
    let sql = "SELECT type, rootpage, length(sql), CASE WHEN length(sql) <= ?2 THEN CAST(sql AS text) END
               FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')";
    let found = connection.query_row(sql, (name, i64::try_from(MAX_VIEW).unwrap_or(i64::MAX)), |row| {
        let (kind, root): (String, Option<i64>) = (row.get(0)?, row.get(1)?);
        let text: Option<String> = row.get(3)?;
        Ok(match (kind.as_str(), root.unwrap_or(0), text) {
            ("table", 1.., _) => Defined::Table,
            ("table", ..) => Defined::Virtual,
            (_, _, Some(sql)) => Defined::View(sql),
            _ => Defined::LongView,
        })
    });
    Ok(found.optional()?.unwrap_or(Defined::Nothing))
}

/// The reason why checking all of an archive's pages would evaluate expressions that its author wrote; `None` if it
/// would not.
pub(crate) fn computes(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let index = "SELECT l.name FROM sqlite_schema s, pragma_index_list(s.name) l
                 WHERE s.type = 'table' AND (l.partial OR EXISTS (SELECT 1 FROM pragma_index_xinfo(l.name) x WHERE x.cid = -2))
                 LIMIT 1";
    let table = "SELECT s.name FROM sqlite_schema s WHERE s.type = 'table'
                 AND (s.rootpage = 0 OR EXISTS (SELECT 1 FROM pragma_table_xinfo(s.name) x WHERE x.hidden <> 0)) LIMIT 1";
    let first = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).optional();
    if let Some(name) = first(index)? {
        return Ok(Some(format!("its index {name:?} is over an expression or a part of the rows")));
    }
    Ok(first(table)?.map(|name| format!("its table {name:?} is virtual or has columns that are computed")))
}

/// The tables of a view over columns of one table, or of two tables that are joined by one or two columns each. `None`
/// for any other view, because reading it may take any amount of time.
fn tables_of_view(sql: &str) -> Option<Vec<String>> {
    let mut words = Words { rest: words(sql)?.into_iter().peekable() };
    words.keyword("create")?;
    words.keyword("temp").or_else(|| words.keyword("temporary"));
    words.keyword("view")?;
    if words.keyword("if").is_some() {
        words.keyword("not").and_then(|()| words.keyword("exists"))?;
    }
    words.column()?;
    if words.sign('(').is_some() {
        words.name()?;
        while words.sign(',').is_some() {
            words.name()?;
        }
        words.sign(')')?;
    }
    words.keyword("as")?;
    words.keyword("select")?;
    loop {
        words.column()?;
        if words.keyword("as").is_some() || !words.is_next("from") && !words.is_next(",") {
            words.name()?;
        }
        if words.sign(',').is_none() {
            break;
        }
    }
    words.keyword("from")?;
    let mut tables = vec![words.table()?];
    let is_left = words.keyword("left").is_some();
    if is_left {
        words.keyword("outer");
    } else {
        words.keyword("inner");
    }
    if words.keyword("join").is_some() {
        tables.push(words.table()?);
        if words.keyword("using").is_some() {
            words.sign('(').and_then(|()| words.name()).and_then(|_| words.sign(')'))?;
        } else {
            words.keyword("on")?;
            words.equal_columns()?;
            // tippecanoe 2.72 joins by the zoom, too.
            if words.keyword("and").is_some() {
                words.equal_columns()?;
            }
        }
    } else if is_left {
        return None;
    } else if words.sign(',').is_some() {
        tables.push(words.table()?);
        words.keyword("where")?;
        words.equal_columns()?;
    }
    words.sign(';');
    words.rest.next().is_none().then_some(tables)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    /// A name or a keyword without quotes, in lower case.
    Plain(String),
    Quoted(String),
    Sign(char),
}

/// Keywords that can follow a list or a table's name, so none of them is an alias.
const KEYWORDS: [&str; 12] =
    ["as", "from", "join", "left", "inner", "outer", "cross", "natural", "on", "using", "where", "select"];

/// The words of a view's definition; `None` if it contains anything that such a view cannot have.
fn words(sql: &str) -> Option<Vec<Word>> {
    let (mut words, mut rest) = (Vec::new(), sql.trim_start());
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let end = match first {
            '(' | ')' | ',' | '.' | '=' | ';' => {
                words.push(Word::Sign(first));
                1
            }
            '"' | '`' | '[' => {
                let close = if first == '[' { ']' } else { first };
                let end = rest[1..].find(close)? + 1;
                words.push(Word::Quoted(rest[1..end].to_owned()));
                end + 1
            }
            _ if is_part(first) && !first.is_ascii_digit() => {
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                words.push(Word::Plain(rest[..end].to_ascii_lowercase()));
                end
            }
            _ => return None,
        };
        rest = rest[end..].trim_start();
    }
    Some(words)
}

struct Words {
    rest: std::iter::Peekable<std::vec::IntoIter<Word>>,
}

impl Words {
    fn keyword(&mut self, wanted: &str) -> Option<()> {
        self.rest.next_if(|word| matches!(word, Word::Plain(text) if text == wanted)).map(drop)
    }

    fn sign(&mut self, wanted: char) -> Option<()> {
        self.rest.next_if_eq(&Word::Sign(wanted)).map(drop)
    }

    /// True if this keyword or sign comes next.
    fn is_next(&mut self, wanted: &str) -> bool {
        self.rest.peek().is_some_and(|word| match word {
            Word::Plain(text) => text == wanted,
            Word::Quoted(_) => false,
            Word::Sign(sign) => wanted.chars().eq([*sign]),
        })
    }

    fn name(&mut self) -> Option<String> {
        match self.rest.next_if(|word| !matches!(word, Word::Sign(_)))? {
            Word::Plain(text) if KEYWORDS.contains(&text.as_str()) => None,
            Word::Plain(text) | Word::Quoted(text) => Some(text),
            Word::Sign(_) => None,
        }
    }

    /// A column, with or without its table's name.
    fn column(&mut self) -> Option<()> {
        self.name()?;
        if self.sign('.').is_some() {
            self.name()?;
        }
        Some(())
    }

    /// A table, with or without an alias; returns its name.
    fn table(&mut self) -> Option<String> {
        let mut table = self.name()?;
        if self.sign('.').is_some() {
            if table != "main" {
                return None;
            }
            table = self.name()?;
        }
        let has_more = match self.rest.peek() {
            Some(Word::Plain(text)) => text == "as" || !KEYWORDS.contains(&text.as_str()),
            Some(Word::Quoted(_)) => true,
            Some(Word::Sign(_)) | None => false,
        };
        if has_more {
            self.keyword("as");
            self.name()?;
        }
        Some(table)
    }

    fn equal_columns(&mut self) -> Option<()> {
        let in_brackets = self.sign('(').is_some();
        self.column()?;
        self.sign('=')?;
        self.sign('=');
        self.column()?;
        if in_brackets { self.sign(')') } else { Some(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_views_of_other_programs_are_read() {
        for sql in [
            // Mapbox, tippecanoe, openmaptiles, mbtiles.
            "CREATE VIEW tiles AS SELECT map.zoom_level AS zoom_level, map.tile_column AS tile_column, map.tile_row AS tile_row, images.tile_data AS tile_data FROM map JOIN images ON images.tile_id = map.tile_id",
            // tippecanoe 2.72.
            "CREATE VIEW tiles AS SELECT map.zoom_level AS zoom_level, map.tile_column AS tile_column, map.tile_row AS tile_row, images.tile_data AS tile_data FROM map JOIN images ON images.tile_id = map.tile_id and images.zoom_level = map.zoom_level",
            // Planetiler.
            "CREATE VIEW tiles AS\nselect tiles_shallow.zoom_level as zoom_level, tiles_shallow.tile_column as tile_column,\n tiles_shallow.tile_row as tile_row, tiles_data.tile_data as tile_data\nfrom tiles_shallow\njoin tiles_data on tiles_shallow.tile_data_id = tiles_data.tile_data_id;",
            "CREATE VIEW IF NOT EXISTS \"tiles\" (a, b) AS SELECT m.[zoom_level], `tile_row` FROM main.map AS m LEFT OUTER JOIN images i ON (m.tile_id = i.tile_id)",
            "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM map JOIN images USING (tile_id)",
            "create view tiles as select map.zoom_level zoom_level, images.tile_data from map, images where map.tile_id == images.tile_id",
        ] {
            assert_eq!(tables_of_view(sql).map(|tables| tables.len()), Some(2), "{sql}");
        }
        let hashed = "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data FROM tiles_with_hash;";
        assert_eq!(tables_of_view(hashed), Some(vec!["tiles_with_hash".to_owned()]));
    }

    #[test]
    fn a_view_that_computes_anything_is_not_read() {
        for sql in [
            "CREATE VIEW tiles AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
            "CREATE VIEW tiles AS SELECT a.x FROM map a JOIN map b ON a.x = b.x JOIN map c ON a.x = c.x",
            "CREATE VIEW tiles AS SELECT map.x FROM map, images",
            "CREATE VIEW tiles AS SELECT map.x FROM map JOIN images",
            "CREATE VIEW tiles AS SELECT map.x FROM map CROSS JOIN images",
            "CREATE VIEW tiles AS SELECT map.x FROM map NATURAL JOIN images",
            "CREATE VIEW tiles AS SELECT map.x FROM map JOIN images ON map.x > images.x",
            "CREATE VIEW tiles AS SELECT map.x FROM map JOIN images ON map.x = images.x OR 1",
            "CREATE VIEW tiles AS SELECT zeroblob(1000000000) AS tile_data FROM map",
            "CREATE VIEW tiles AS SELECT x || x FROM map",
            "CREATE VIEW tiles AS SELECT x FROM map UNION ALL SELECT x FROM map",
            "CREATE VIEW tiles AS SELECT x FROM (SELECT 1 AS x)",
            "CREATE VIEW tiles AS SELECT x FROM map ORDER BY x",
            "CREATE VIEW tiles AS SELECT x FROM map LIMIT 5",
            "CREATE VIEW tiles AS SELECT DISTINCT x FROM map GROUP BY x",
            "CREATE VIEW tiles AS SELECT * FROM map",
            "CREATE VIEW tiles AS SELECT 'text' FROM map",
            "CREATE VIEW tiles AS SELECT x FROM temp.map",
            "CREATE VIEW tiles AS SELECT x FROM map -- more",
            "CREATE VIEW tiles AS VALUES (1)",
            "CREATE VIEW tiles",
            "",
            "\u{0}",
        ] {
            assert_eq!(tables_of_view(sql), None, "{sql}");
        }
    }
}
