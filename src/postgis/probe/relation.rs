//! Reads from the catalog the columns, key and indexes of a relation.

use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::postgis::layer::{BoundProperty, ComputedFrom, Layer, Query};
use crate::postgis::session::{Error, Param, Session, Snapshot, quoted};

#[derive(Debug)]
pub(crate) struct Column {
    pub name: String,
    /// The name of its type, or of the base type if the type is a domain over geometry or geography.
    pub kind: String,
    /// The schema of its type: `pg_catalog` for the types of PostgreSQL itself.
    pub(crate) kind_schema: String,
    /// True if the column's type has a collation.
    pub(crate) collated: bool,
    /// True if its collation takes texts of different bytes for equal.
    pub(crate) is_nondeterministic: bool,
    pub(crate) not_null: bool,
    /// True if the role may read the column.
    pub(crate) readable: bool,
    /// The SRID that the column's type declares; 0 if it declares none.
    pub(crate) srid: i32,
    /// The geometry type that the column's type declares, such as "Point"; "Geometry" for any.
    pub(crate) geometry_type: String,
}

impl Column {
    pub(crate) fn is_spatial(&self) -> bool {
        self.kind == "geometry" || self.kind == "geography"
    }
}

/// A unique index over plain columns that covers all rows of a table at all times: it is not partial, deferred or
/// incomplete.
#[derive(Debug)]
pub(crate) struct UniqueIndex {
    pub columns: Vec<String>,
    pub primary: bool,
    /// False if the table has children by inheritance. The table then shows their rows, too, but the index does not
    /// cover them.
    pub(crate) covers_children: bool,
}

/// The kinds of relations that the probe distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RelationKind {
    /// A table, partitioned table or materialized view, which can have indexes.
    Stored,
    /// A view or foreign table.
    Elsewhere,
    Query,
}

/// A table, view, materialized view or foreign table.
#[derive(Debug)]
pub(crate) struct Relation {
    pub schema: String,
    pub name: String,
    pub kind: RelationKind,
    pub columns: Vec<Column>,
    pub(crate) unique: Vec<UniqueIndex>,
    /// The first column of each spatial index.
    pub(crate) spatial_indexes: Vec<String>,
    /// True if the role may read at least one column of the relation.
    pub(crate) readable: bool,
    /// True if the role may use the relation's schema.
    pub(crate) schema_usable: bool,
    /// The role that looked it up.
    pub role: String,
}

impl Relation {
    /// Schema and name, quoted.
    pub(crate) fn quoted(&self) -> String {
        if self.kind == RelationKind::Query {
            return self.name.clone();
        }
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// Finds the relation by exact name: in the given schema, or on the search path. Without a given schema, "a.b" is also
/// tried as relation b of schema a.
const FIND: &str = "
    SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
           has_any_column_privilege(c.oid, 'SELECT'), has_schema_privilege(n.oid, 'USAGE'), current_user::text
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND ((c.relname = $1 AND (n.nspname = $2 OR ($2 IS NULL AND pg_table_is_visible(c.oid))))
        OR ($2 IS NULL AND $3 AND c.relname = $5 AND n.nspname = $4))
    ORDER BY c.relname = $1 DESC LIMIT 1";

const COLUMNS: &str = "
    SELECT a.attname::text, t.typname::text, a.attcollation <> 0, a.attnotnull, has_column_privilege(a.attrelid, a.attnum, 'SELECT'),
           CASE WHEN t.typname IN ('geometry', 'geography') THEN postgis_typmod_srid(modifier) ELSE 0 END,
           CASE WHEN t.typname IN ('geometry', 'geography') THEN postgis_typmod_type(modifier) ELSE '' END,
           tn.nspname::text,
           EXISTS (SELECT FROM pg_collation co WHERE co.oid = a.attcollation AND NOT co.collisdeterministic)
    FROM pg_attribute a JOIN pg_type own ON own.oid = a.atttypid
    LEFT JOIN pg_type base ON own.typtype = 'd' AND base.oid = own.typbasetype AND base.typname IN ('geometry', 'geography')
    JOIN pg_type t ON t.oid = coalesce(base.oid, own.oid) JOIN pg_namespace tn ON tn.oid = t.typnamespace
    CROSS JOIN LATERAL (SELECT CASE WHEN base.oid IS NULL THEN a.atttypmod ELSE own.typtypmod END AS modifier) AS declared
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum";

const INDEXES: &str = "
    SELECT i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indimmediate, i.indisprimary, m.amname::text,
           ARRAY(SELECT a.attname::text
                 FROM unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
                 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                 WHERE k.place <= i.indnkeyatts ORDER BY k.place),
           NOT EXISTS (SELECT FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent WHERE h.inhparent = i.indrelid AND p.relkind = 'r')
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam
    WHERE i.indrelid = $1 AND i.indisvalid
    ORDER BY i.indexrelid";

const NAMES: &str = "
    SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname::text ELSE n.nspname || '.' || c.relname END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    ORDER BY 1 LIMIT 1000";

#[derive(Debug, Clone, Copy)]
pub(crate) struct RelationName<'a> {
    pub layer: &'a str,
    /// The schema; without it, the search path decides.
    pub schema: Option<&'a str>,
    pub table: &'a str,
    /// The part of the configuration that names it, such as "the layer".
    pub of: &'static str,
}

pub(crate) async fn look_up(session: &Session, wanted: RelationName<'_>) -> Result<Relation, Error> {
    let context = format!("layer \"{}\"", wanted.layer);
    let (front, back) = wanted.table.split_once('.').unwrap_or((wanted.table, ""));
    let dotted = !back.is_empty();
    let found = session
        .all(
            &context,
            FIND,
            &[
                (&wanted.table, Type::TEXT),
                (&wanted.schema, Type::TEXT),
                (&dotted, Type::BOOL),
                (&front, Type::TEXT),
                (&back, Type::TEXT),
            ],
        )
        .await?;
    let Some(row) = found.first() else { return Err(unknown(session, wanted, &context).await) };
    let oid: u32 = row.get(0);
    let kind: String = row.get(3);
    // The catalog shows the state of the snapshot, but rights are checked in the present state: NULL if the table has
    // been dropped since the snapshot.
    let dropped = || {
        let (schema, name): (String, String) = (row.get(1), row.get(2));
        Error::Appeared { table: format!("{}.{}", quoted(&schema), quoted(&name)), how: "dropped" }
    };
    let right = |right: Option<bool>| right.ok_or_else(dropped);
    let (readable, schema_usable) = (right(row.get(4))?, right(row.get(5))?);
    let columns = session.all(&context, COLUMNS, &[(&oid, Type::OID)]).await?;
    let column = |row: &Row| {
        Ok(Column {
            name: row.get(0),
            kind: row.get(1),
            collated: row.get(2),
            not_null: row.get(3),
            readable: right(row.get(4))?,
            srid: row.get(5),
            geometry_type: row.get(6),
            kind_schema: row.get(7),
            is_nondeterministic: row.get(8),
        })
    };
    let columns: Vec<Column> = columns.iter().map(column).collect::<Result<_, Error>>()?;
    let (mut unique, mut spatial_indexes) = (Vec::new(), Vec::new());
    for row in session.all(&context, INDEXES, &[(&oid, Type::OID)]).await? {
        let (is_unique, primary, method): (bool, bool, String) = (row.get(0), row.get(1), row.get(2));
        let names: Vec<String> = row.get(3);
        if is_unique {
            unique.push(UniqueIndex { columns: names, primary, covers_children: row.get(4) });
        } else if matches!(method.as_str(), "gist" | "spgist") {
            spatial_indexes.extend(names.into_iter().take(1));
        }
    }
    Ok(Relation {
        schema: row.get(1),
        name: row.get(2),
        kind: if matches!(kind.as_str(), "v" | "f") { RelationKind::Elsewhere } else { RelationKind::Stored },
        columns,
        unique,
        spatial_indexes,
        readable,
        schema_usable,
        role: row.get(6),
    })
}

async fn unknown(session: &Session, wanted: RelationName<'_>, context: &str) -> Error {
    let names = match session.all(context, NAMES, &[]).await {
        Ok(rows) => rows.iter().map(|row| row.get(0)).collect::<Vec<String>>(),
        Err(error) => return error,
    };
    let name = match wanted.schema {
        Some(schema) => format!("{schema}.{}", wanted.table),
        None => wanted.table.to_owned(),
    };
    let nearest = nearest(&name, names.iter().map(String::as_str));
    Error::Layer {
        layer: wanted.layer.to_owned(),
        what: format!("the database {} has no table or view {}", session.server(), quoted(&name)),
        next: match nearest {
            Some(name) => format!("Did you mean {}? Set table (and schema) of {}", quoted(name), wanted.of),
            None => format!("Set table (and schema) of {}", wanted.of),
        },
        source: None,
    }
}

/// The name that is most similar to `wanted`; `None` if no name is similar enough for `wanted` to be a typing error.
pub(crate) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::jaro_winkler(&wanted.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

// Finds the columns of a query and their types without reading a row, and with no other right than to read. It uses no
// named prepared statement and no view, so it works behind a pooler and on a standby.

/// The columns of a layer's query, as a relation.
pub(crate) async fn query_relation(session: &Session, layer: &str, query: &Query) -> Result<Relation, Error> {
    let context = format!("layer \"{layer}\"");
    let role: String = session.one(&context, "SELECT current_user::text", &[]).await?.get(0);
    // One row of NULLs, which has the same columns as the query.
    let nothing = format!(
        "(SELECT) AS one LEFT JOIN (SELECT * FROM {} WHERE false) AS given ON true",
        query.sql_item_without_values(layer)
    );
    let asking = format!(
        "SELECT ARRAY(SELECT json_object_keys(row_to_json(named)) FROM (SELECT given.* FROM {nothing}) AS named)"
    );
    let row = session.one(&context, &asking, &[]).await.map_err(|error| not_understood(layer, &role, error))?;
    let names: Vec<String> = row.get(0);
    let is_twice = |(at, name): &(usize, &String)| names[..*at].contains(name);
    if let Some((_, twice)) = names.iter().enumerate().find(is_twice) {
        return Err(Error::Layer {
            layer: layer.to_owned(),
            what: format!("its query gives two columns {}", quoted(twice)),
            next: "Leave one out, or rename it with AS".to_owned(),
            source: None,
        });
    }
    let types: Vec<String> = names.iter().map(|name| format!("pg_typeof(given.{})::oid", quoted(name))).collect();
    let types = format!(
        "SELECT coalesce(base.typname, t.typname)::text, t.typcollation <> 0
         FROM unnest((SELECT ARRAY[{}]::oid[] FROM {nothing})) WITH ORDINALITY AS given (type, place)
         JOIN pg_type AS t ON t.oid = given.type
         LEFT JOIN pg_type AS base ON t.typtype = 'd' AND base.oid = t.typbasetype AND base.typname IN ('geometry', 'geography')
         ORDER BY given.place",
        types.join(", ")
    );
    let rows = session.all(&context, &types, &[]).await?;
    let columns = names.into_iter().zip(&rows).map(|(name, row)| Column {
        name,
        kind: row.get(0),
        collated: row.get(1),
        is_nondeterministic: false,
        not_null: false,
        readable: true,
        srid: 0,
        kind_schema: String::new(),
        geometry_type: String::new(),
    });
    Ok(Relation {
        schema: String::new(),
        name: "its query".to_owned(),
        kind: RelationKind::Query,
        columns: columns.collect(),
        unique: Vec::new(),
        spatial_indexes: Vec::new(),
        readable: true,
        schema_usable: true,
        role,
    })
}

fn not_understood(layer: &str, role: &str, error: Error) -> Error {
    let Error::Query { source, .. } = error else { return error };
    let (layer, role) = (layer.to_owned(), quoted(role));
    if source.code == Some(SqlState::INSUFFICIENT_PRIVILEGE) {
        return Error::Layer {
            layer,
            what: format!("the role {role} may not read everything that its query reads"),
            next: format!("Run GRANT SELECT ON … TO {role} as the owner of what the cause names"),
            source: Some(source),
        };
    }
    Error::Layer {
        layer,
        what: "the database does not understand its query".to_owned(),
        next: "sql is one SELECT, as psql takes it once values stand for the placeholders".to_owned(),
        source: Some(source),
    }
}

// The tables and views that the layers read: locks that keep others from rewriting them, and a hash that identifies
// them by more than their names.

/// The tables and views that layers read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reads {
    /// A hash of the OIDs of the tables, including partitions and the tables beneath views, and of the views'
    /// definitions.
    pub(crate) digest: String,
    /// A table, quoted, in which this role may see only some rows. A change of its policies can hide rows without
    /// changing any row.
    pub(crate) row_security: Option<String>,
    /// True if one of these tables has partitions.
    pub(crate) has_partitions: bool,
}

/// Examines the tables that this transaction has locked, which are the tables that the layers' statements open. The
/// catalog shows the file node at the time of the snapshot, but `pg_relation_filenode` the present one. If they differ,
/// the table was rewritten or truncated after the snapshot was taken, and this transaction sees none of its old rows
/// (PostgreSQL documentation, section 13.6, "Caveats").
const LOCKED: &str = "
    SELECT md5(coalesce(string_agg(concat_ws(' ', c.oid, (SELECT md5(r.ev_action::text) FROM pg_rewrite AS r WHERE r.ev_class = c.oid AND c.relkind = 'v')), ',' ORDER BY c.oid), '')),
        min(c.oid::regclass::text) FILTER (WHERE c.relkind IN ('r', 'p') AND row_security_active(c.oid)),
        min(c.oid::regclass::text) FILTER (WHERE c.relkind IN ('r', 'm') AND pg_relation_filenode(c.oid) IS DISTINCT FROM c.relfilenode),
        coalesce(bool_or(c.relkind = 'p'), false)
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
      AND NOT EXISTS (SELECT FROM pg_depend AS e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')";

/// What this transaction reads, as far as it has locked it. Returns an error if a table was rewritten or created after
/// the snapshot was taken.
pub(crate) async fn reads(session: &Session) -> Result<Reads, Error> {
    let context = "checking whether tables were rewritten";
    // Both are on their way at once.
    let looks = [LOCKED, MADE].map(|sql| Box::pin(session.one(context, sql, &[])));
    let [locked, made] = looks;
    let (locked, made) = tokio::join!(locked, made);
    let row = locked?;
    if let Some(table) = row.get(2) {
        return Err(Error::Rewritten { table });
    }
    let reads = Reads { digest: row.get(0), row_security: row.get(1), has_partitions: row.get(3) };
    made?.get::<_, Option<String>>(0).map_or(Ok(reads), |table| Err(Error::Appeared { table, how: "made" }))
}

/// True if a relation is a table, and each of some expressions just names a column of it, which holds what was written
/// into it, in a type whose values are the same in every session. `quote_ident` quotes names that SQL reads as
/// something else, such as `user`.
const PLAIN_COLUMNS: &str = "
    SELECT c.relkind IN ('r', 'p') AND NOT EXISTS (
        SELECT FROM unnest($2::text[], $3::bool[]) AS wanted(expression, is_value) WHERE NOT EXISTS (
            SELECT FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
              AND wanted.expression IN (quote_ident(a.attname), format('\"%s\"', replace(a.attname, '\"', '\"\"')))
              AND (NOT wanted.is_value OR t.typnamespace = 'pg_catalog'::regnamespace AND t.typname IN
                  ('bool', 'int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'text', 'varchar', 'bpchar', 'uuid', 'jsonb'))))
    FROM pg_class AS c WHERE c.oid = $1::text::regclass";

/// True if what a layer shows of a row, and `more` that is computed from it, changes only if the row is written: all of
/// that, and the layer's condition and its rank as cached rows hold it, if it has them, are columns of a table as they
/// are.
pub async fn shows_rows_as_written(snapshot: &Snapshot, layer: &Layer, more: &[&str]) -> Result<bool, Error> {
    if layer.is_query() {
        return Ok(false);
    }
    let named = |sql: &str| sql.trim_start_matches('(').trim_end_matches(')').trim().to_owned();
    let of_row = |property: &&BoundProperty| property.of == ComputedFrom::Row;
    let (mut expressions, mut are_values) = (vec![layer.geometry.clone()], vec![false]);
    let values = layer.properties.iter().filter(of_row).map(|property| &*property.sql);
    let values = values.chain(layer.filter.as_deref()).chain(more.iter().copied()).map(named);
    let ranks = layer.rank.iter().filter(|_| layer.cached_rank().is_some()).map(|rank| named(&rank.sql));
    for value in values.chain(ranks).chain(layer.section.feature_id.as_deref().map(quoted)) {
        expressions.push(value);
        are_values.push(true);
    }
    for key in &layer.key {
        expressions.push(key.quoted.clone());
        // No session writes keys as texts whose order is known here.
        are_values.push(key.kind.is_none());
    }
    let params: [Param<'_>; 3] =
        [(&layer.relation, Type::TEXT), (&expressions, Type::TEXT_ARRAY), (&are_values, Type::BOOL_ARRAY)];
    let rows = snapshot.all("asking whether a layer shows its rows as they are", PLAIN_COLUMNS, &params).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Finds the tables that this transaction has locked and whose policies may hide rows from this role. Tables whose
/// policies let the role read every row are left out.
const ROW_SECURITY: &str = "
    SELECT DISTINCT format('%I.%I', n.nspname, c.relname), current_user::text
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind IN ('r', 'p') AND row_security_active(c.oid)
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND (EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND NOT p.polpermissive) OR NOT EXISTS (
          SELECT FROM pg_policy AS p
          WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*') AND pg_get_expr(p.polqual, p.polrelid) = 'true'
            AND EXISTS (SELECT FROM unnest(p.polroles) AS r WHERE r = 0 OR pg_has_role(r, 'USAGE'))))
    ORDER BY 1";

/// A table whose policies may hide rows from a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowSecurity {
    /// Schema and name, quoted where necessary.
    pub(crate) table: String,
    role: String,
}

/// The tables that the session has locked and whose policies may hide rows from the role.
pub(crate) async fn row_security(session: &Session) -> Result<Vec<RowSecurity>, Error> {
    let rows = session.all("looking for row level security", ROW_SECURITY, &[]).await?;
    Ok(rows.iter().map(|row| RowSecurity { table: row.get(0), role: row.get(1) }).collect())
}

/// The warning that policies may hide rows of these tables; `None` if there is no table.
pub(crate) fn row_security_warning(found: &[RowSecurity]) -> Option<String> {
    let RowSecurity { table: first, role } = found.first()?;
    let tables: Vec<&str> = found.iter().map(|one| one.table.as_str()).collect();
    let (tables, role) = (tables.join(", "), quoted(role));
    Some(format!(
        "row level security: policies decide which rows of {tables} the role {role} sees, and only these are drawn. For all rows, connect as a role with BYPASSRLS, or run CREATE POLICY oar_tiles ON {first} FOR SELECT TO {role} USING (true) as its owner"
    ))
}

/// Finds a table that was created after the snapshot was taken. Such a table is locked, because names are looked up in
/// the present state, but the catalog, as of the snapshot, does not show it. If it replaced another table, this
/// transaction sees no row of it.
const MADE: &str = "
    SELECT min(l.relation::regclass::text)
    FROM pg_locks AS l
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation'
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND NOT EXISTS (SELECT FROM pg_class AS c WHERE c.oid = l.relation)";

/// Finds a table that existed at the snapshot and has become a partition of a locked table since then:
/// `pg_partition_tree` shows the present state, the catalog the state of the snapshot. Statements that are planned
/// later also read such a partition.
const ATTACHED: &str = "
    SELECT min(part.relid::text)
    FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation CROSS JOIN LATERAL pg_partition_tree(c.oid) AS part
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND c.relkind = 'p'
      AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
      AND part.relid <> c.oid AND EXISTS (SELECT FROM pg_class AS k WHERE k.oid = part.relid)
      AND NOT EXISTS (SELECT FROM pg_inherits AS i WHERE i.inhrelid = part.relid)";

impl Snapshot {
    /// Checks that no partition was attached to a table while the run read it. Locks keep other sessions from altering
    /// the table, but no lock that a reader can take keeps them from attaching partitions. Fails with
    /// [`Error::Appeared`] if one was attached.
    pub(crate) async fn check_partitions(&self, reads: &Reads) -> Result<(), Error> {
        if !reads.has_partitions {
            return Ok(());
        }
        let attached = match self.keeper.one("checking whether tables were rewritten", ATTACHED, &[]).await {
            // The tiles are complete: the workers' sessions held the same locks.
            Err(error) if error.is_lost() => return Ok(()),
            attached => attached?.get::<_, Option<String>>(0),
        };
        attached.map_or(Ok(()), |table| Err(Error::Appeared { table, how: "attached as a partition" }))
    }
}
