//! The tables of a round, and what may happen to one of them.

use super::chance::Chance;

/// What kind of table it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The registry's: points in degrees, a text key.
    Points,
    /// Lines and polygons in metres, in a column of any type.
    Shapes,
    /// A geography.
    Geography,
    /// Partitioned by key; statements also go to its parts.
    Partitioned,
    /// A view that joins the points with what is said about them, each table declared.
    Joined,
    /// Points in a system without a closed formula (Swiss, EPSG:2056).
    Swiss,
}

const KINDS: [Kind; 8] = [
    Kind::Points,
    Kind::Shapes,
    Kind::Geography,
    Kind::Points,
    Kind::Partitioned,
    Kind::Joined,
    Kind::Swiss,
    Kind::Partitioned,
];

/// One table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub name: String,
    pub kind: Kind,
}

impl Table {
    /// Tables of every kind.
    pub(crate) fn of_every_kind(count: usize) -> Vec<Table> {
        (0..count).map(|number| Table { name: format!("t{number}"), kind: KINDS[number % KINDS.len()] }).collect()
    }

    /// Tables of points, which are drawn as they are.
    pub(crate) fn of_points(count: usize) -> Vec<Table> {
        (0..count).map(|number| Table { name: format!("points{number}"), kind: Kind::Points }).collect()
    }

    /// Makes it.
    pub(crate) fn create(&self) -> String {
        let Table { name, kind } = self;
        let geometry = match kind {
            Kind::Points | Kind::Partitioned | Kind::Joined => "geometry(Point, 4326)",
            Kind::Shapes => "geometry",
            Kind::Geography => "geography(Point, 4326)",
            Kind::Swiss => "geometry(Point, 2056)",
        };
        let columns = format!(
            "id text, name text NOT NULL, hidden boolean NOT NULL DEFAULT false, price numeric, stamp timestamptz, place {geometry}"
        );
        match kind {
            Kind::Partitioned => format!(
                "CREATE TABLE {name} ({columns}, PRIMARY KEY (id)) PARTITION BY HASH (id);
                 CREATE TABLE {name}_0 PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
                 CREATE TABLE {name}_1 PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
            ),
            Kind::Joined => format!(
                "CREATE TABLE {name} ({columns}, PRIMARY KEY (id));
                 CREATE TABLE {name}_said (number serial PRIMARY KEY, about text, word text, stamp timestamptz);
                 CREATE INDEX ON {name}_said (about);
                 CREATE VIEW {name}_view AS SELECT t.id, t.name, t.hidden, t.price, t.place,
                     (SELECT string_agg(s.word, ' ' ORDER BY s.number) FROM {name}_said s WHERE s.about = t.id) AS words
                 FROM {name} t"
            ),
            _ => format!("CREATE TABLE {name} ({columns}, PRIMARY KEY (id))"),
        }
    }

    /// Its layer in the configuration.
    pub(crate) fn layer(&self) -> String {
        let Table { name, kind } = self;
        let (relation, words) = match kind {
            Kind::Joined => (format!("{name}_view"), ", words = \"words\""),
            _ => (name.clone(), ""),
        };
        let track = match kind {
            Kind::Joined => format!(
                "[[layer.track]]\ntable = \"{name}\"\ngeometry = \"SELECT changed.place\"\n
                 [[layer.track]]\ntable = \"{name}_said\"\ngeometry = \"SELECT t.place FROM {name} t WHERE t.id = changed.about\"\n"
            ),
            _ => String::new(),
        };
        let rows = format!("table = \"{relation}\"\ngeometry = \"place\"\nkey = [\"id\"]\nwhere = \"NOT hidden\"\n");
        format!(
            "[[layer]]\nname = \"{name}\"\n{rows}
             properties = {{ id = \"id\", name = \"upper(name)\", price = \"price::text\"{words} }}\n{track}{}",
            self.cells(&rows, &track)
        )
    }

    /// Its rows put together, in another layer or at some zooms of the same: every shape of cell, what stands for one,
    /// and both ways to work out what is in it.
    fn cells(&self, rows: &str, track: &str) -> String {
        let (name, number) = (&self.name, self.name.trim_start_matches('t'));
        let count = "properties = { n = \"count(*)\" }";
        let (properties, cells) = match number {
            "0" => ("properties = [\"id\", \"name\"]", "[layer.cluster]\nzoom = \"0-6\"\nsize = \"1/64\"".to_owned()),
            "1" => ("", format!("[layer.aggregate]\ncell = \"square\"\nsize = \"1/4\"\ndraw = \"polygon\"\n{count}")),
            "2" => ("", format!("[layer.aggregate]\ncell = \"square\"\nsize = \"1/16\"\ndraw = \"centroid\"\n{count}")),
            "3" => (
                "",
                format!("[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\nhaving = \"count(*) > 1\"\n{count}"),
            ),
            "4" => (
                "properties = [\"id\"]",
                "[layer.aggregate]\ncell = \"square\"\nsize = \"1/8\"\nzoom = \"0-6\"\ndraw = \"centroid\"
                 properties = { names = \"string_agg(name, ',')\", west = \"!xmin!\" }"
                    .to_owned(),
            ),
            "5" => (
                "",
                "[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/3\"\nproperties = { words = \"count(words)\" }"
                    .to_owned(),
            ),
            "6" => ("", format!("[layer.aggregate]\ncell = \"hexagon\"\nsize = \"1/8\"\ndraw = \"polygon\"\n{count}")),
            "7" => (
                "properties = { id = \"id\", name = \"name\", z = \"!zoom!\" }\nproperty_zooms = { name = \"11-22\" }\nmin_zoom = \"4 * price\"",
                String::new(),
            ),
            _ => return String::new(),
        };
        let merged = match number {
            "0" => "size = \"1/16\"",
            "5" => "cell = \"hexagon\"\nsize = \"1/10\"\nproperties = { words = \"count(words)\" }",
            "6" => "cell = \"hexagon\"\nsize = \"1/8\"\nzoom = \"0-9\"",
            _ => return format!("[[layer]]\nname = \"{name} cells\"\n{rows}{properties}\n{cells}\n{track}"),
        };
        format!(
            "[[layer]]\nname = \"{name} cells\"\n{rows}{properties}\n{cells}\n{track}
             [[layer]]\nname = \"{name} merged\"\n{rows}properties = [\"id\"]\n[layer.cluster]\nmerge = true\n{merged}\n{track}"
        )
    }

    /// A place, now and then an odd one.
    fn place(&self, chance: &mut Chance) -> String {
        if chance.often(6) {
            return "NULL".to_owned();
        }
        // A few cities, so that tiles are shared; now and then anywhere, the edges of the world and beyond among it.
        let (lon, lat) = match chance.below(20) {
            0..=12 => {
                let (lon, lat) = *chance.one_of(&[(90.4, 23.8), (113.3, 23.1), (8.5, 47.4), (180.0, -18.1)]);
                (lon + chance.between(-0.01, 0.01), lat + chance.between(-0.01, 0.01))
            }
            13 => (*chance.one_of(&[-180.0, 180.0, 0.0]), *chance.one_of(&[85.0511, -85.0511, 0.0, 85.06, 89.0])),
            _ => (chance.between(-190.0, 190.0), chance.between(-88.0, 88.0)),
        };
        match self.kind {
            Kind::Swiss => {
                let (east, north) =
                    (chance.between(2_480_000.0, 2_840_000.0), chance.between(1_070_000.0, 1_300_000.0));
                format!("ST_SetSRID(ST_MakePoint({east}, {north}), 2056)")
            }
            Kind::Shapes => {
                let point =
                    format!("ST_Transform(ST_SetSRID(ST_MakePoint({lon}, {}), 4326), 3857)", lat.clamp(-84.0, 84.0));
                let size = chance.one_of(&[10.0, 1_000.0, 20_000.0]);
                match chance.below(4) {
                    0 => format!("ST_Buffer({point}, {size}, 2)"),
                    1 => format!("ST_MakeLine({point}, ST_Translate({point}, {size}, {size}))"),
                    2 => "ST_SetSRID('POLYGON EMPTY'::geometry, 3857)".to_owned(),
                    _ => format!("ST_Collect({point}, ST_Translate({point}, {size}, 0))"),
                }
            }
            Kind::Geography => format!("ST_SetSRID(ST_MakePoint({lon}, {lat}), 4326)::geography"),
            _ => format!("ST_SetSRID(ST_MakePoint({lon}, {lat}), 4326)"),
        }
    }

    fn id(chance: &mut Chance) -> String {
        format!("'f{}'", chance.below(60))
    }

    /// Some rows as the VALUES of an insert.
    fn rows(&self, chance: &mut Chance) -> String {
        let mut ids: Vec<u64> = (0..=chance.below(4)).map(|_| chance.below(60)).collect();
        ids.sort_unstable();
        ids.dedup();
        let row = |id: u64, chance: &mut Chance| {
            format!(
                "('f{id}', 'n{}', {}, {}.50, {})",
                chance.below(9),
                chance.often(10),
                chance.below(3),
                self.place(chance)
            )
        };
        ids.into_iter().map(|id| row(id, chance)).collect::<Vec<_>>().join(", ")
    }

    /// The table, or a part of it by itself.
    fn target(&self, chance: &mut Chance) -> String {
        match self.kind {
            Kind::Partitioned if chance.often(30) => format!("{}_{}", self.name, chance.below(2)),
            _ => self.name.clone(),
        }
    }

    /// A statement that changes it, or only looks as if.
    pub(crate) fn statement(&self, chance: &mut Chance) -> String {
        let name = self.target(chance);
        let whole = &self.name;
        let id = Table::id(chance);
        if self.kind == Kind::Joined && chance.often(40) {
            return match chance.below(5) {
                0 => format!("UPDATE {whole}_said SET stamp = now()"),
                1 => format!("UPDATE {whole}_said SET about = {id} WHERE number % 5 = {}", chance.below(5)),
                2 => format!("DELETE FROM {whole}_said WHERE about = {id}"),
                3 => format!("UPDATE {whole}_said SET word = word || '!' WHERE about = {id}"),
                _ => format!("INSERT INTO {whole}_said (about, word) VALUES ({id}, 'w{}')", chance.below(9)),
            };
        }
        match chance.below(16) {
            0..=3 => format!(
                "INSERT INTO {whole} (id, name, hidden, price, place) VALUES {} ON CONFLICT (id) DO {}",
                self.rows(chance),
                chance.one_of(&["NOTHING", "UPDATE SET place = excluded.place, name = excluded.name"])
            ),
            4..=6 => format!("UPDATE {name} SET place = {} WHERE id = {id}", self.place(chance)),
            7 => format!("UPDATE {name} SET name = name || '+' WHERE id = {id}"),
            8 => format!("UPDATE {name} SET stamp = now()"),
            9 => format!("UPDATE {name} SET hidden = NOT hidden WHERE id = {id}"),
            // Equal as a number, different as a text.
            10 => format!("UPDATE {name} SET price = price::numeric(9, {}) WHERE id = {id}", chance.below(4)),
            11 => format!("DELETE FROM {name} WHERE id = {id}"),
            12 => format!("UPDATE {whole} SET id = {} WHERE id = {id}", Table::id(chance)),
            13 => format!("UPDATE {name} SET place = place, name = name"),
            14 if chance.often(20) => format!("TRUNCATE {whole}"),
            14 => format!("DELETE FROM {name} WHERE id < 'f{}'", chance.below(30)),
            _ => format!(
                "WITH gone AS (DELETE FROM {name} WHERE id = {id} RETURNING id, name, place)
                 UPDATE {whole} t SET place = gone.place FROM gone WHERE t.id = {}",
                Table::id(chance)
            ),
        }
    }

    /// Lines for COPY.
    pub(crate) fn copied(&self, chance: &mut Chance) -> Option<(String, String)> {
        (self.kind == Kind::Points).then(|| {
            let (lon, lat) = (chance.between(-170.0, 170.0), chance.between(-80.0, 80.0));
            let lines = format!("c{}\tcopied\tSRID=4326;POINT({lon} {lat})\n", chance.number());
            (format!("COPY {} (id, name, place) FROM STDIN", self.name), lines)
        })
    }

    /// Empties it and fills it anew, for the next round.
    pub(crate) fn begin(&self, chance: &mut Chance) -> String {
        let Table { name, kind } = self;
        let said = match kind {
            Kind::Joined => format!(", {name}_said"),
            _ => String::new(),
        };
        let rows: Vec<String> = (0..12).map(|_| self.rows(chance)).collect();
        let fill = rows.iter().map(|rows| {
            format!("INSERT INTO {name} (id, name, hidden, price, place) VALUES {rows} ON CONFLICT (id) DO NOTHING;")
        });
        format!("TRUNCATE {name}{said}; {}", fill.collect::<String>())
    }
}
