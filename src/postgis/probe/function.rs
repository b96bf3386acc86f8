//! Looks up the function of a layer, and checks that it returns tiles.

use md5::{Digest as _, Md5};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::layer::LayerProbe;
use crate::encode::is_tile_type;
use crate::hex::hex;
use crate::postgis::layer::{CalledFunction, FunctionComment, TileFunction};
use crate::postgis::session::{Error, quoted};

/// Finds the functions with a name, or with a name and argument types. `$1` is the configured text, `$2` is true if it
/// contains argument types.
const FUNCTIONS: &str = "
SELECT p.oid, n.nspname::text, p.proname::text,
    ARRAY(SELECT t.typname::text FROM unnest(p.proargtypes) WITH ORDINALITY AS argument (type, place)
          JOIN pg_type AS t ON t.oid = argument.type ORDER BY place),
    p.prokind = 'f' AND r.typname IN ('bytea', 'record'),
    ARRAY(SELECT t.typname::text FROM unnest(p.proallargtypes, p.proargmodes) WITH ORDINALITY AS argument (type, mode, place)
          JOIN pg_type AS t ON t.oid = argument.type WHERE mode IN ('o', 't') ORDER BY place),
    r.typname = 'bytea',
    has_schema_privilege(n.oid, 'USAGE'), has_function_privilege(p.oid, 'EXECUTE'),
    CASE WHEN p.prokind = 'f' THEN pg_get_functiondef(p.oid) ELSE '' END,
    obj_description(p.oid, 'pg_proc'), current_user::text
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace JOIN pg_type AS r ON r.oid = p.prorettype
WHERE CASE WHEN $2 THEN p.oid = to_regprocedure($1)
      ELSE p.proname = (parse_ident($1))[array_upper(parse_ident($1), 1)]
          AND CASE array_length(parse_ident($1), 1) WHEN 1 THEN pg_function_is_visible(p.oid)
              ELSE n.nspname = (parse_ident($1))[1] END
      END
ORDER BY p.pronargs, p.oid";

/// Finds functions of a database that return tiles, for a message.
const CANDIDATES: &str = "
SELECT format('%I.%I', n.nspname, p.proname)
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE p.prokind = 'f' AND p.pronargs IN (3, 4) AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND (p.prorettype = 'bytea'::regtype OR p.prorettype = 'record'::regtype AND 'bytea'::regtype = ANY (p.proallargtypes))
    AND p.proargtypes[0] IN (21, 23, 20) AND p.proargtypes[1] IN (23, 20) AND p.proargtypes[2] IN (23, 20)
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')
ORDER BY 1 LIMIT 5";

/// The signature that a function must have, for messages.
const FORM: &str = "It takes (z integer, x integer, y integer), or these and a json, jsonb or text, and returns bytea, or columns of which the first is bytea";

/// A function with the configured name.
struct FoundFunction {
    schema: String,
    name: String,
    arguments: Vec<String>,
    gives_tiles: bool,
    may_use_schema: bool,
    may_call: bool,
    definition: String,
    comment: Option<String>,
    role: String,
}

impl FoundFunction {
    fn read(row: &Row) -> FoundFunction {
        let (is_of_a_kind, columns, is_bytea): (bool, Vec<String>, bool) = (row.get(4), row.get(5), row.get(6));
        let arguments: Vec<String> = row.get(3);
        let takes_a_tile = matches!(arguments.len(), 3 | 4)
            && arguments[..3].iter().all(|kind| matches!(kind.as_str(), "int4" | "int8"))
            && arguments.get(3).is_none_or(|kind| matches!(kind.as_str(), "json" | "jsonb" | "text"));
        let gives_bytes = is_bytea || columns.first().is_some_and(|kind| kind == "bytea");
        FoundFunction {
            schema: row.get(1),
            name: row.get(2),
            arguments,
            gives_tiles: is_of_a_kind && takes_a_tile && gives_bytes,
            may_use_schema: row.get(7),
            may_call: row.get(8),
            definition: row.get(9),
            comment: row.get(10),
            role: row.get(11),
        }
    }

    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }

    fn signature(&self) -> String {
        format!("{}({})", self.quoted(), self.arguments.join(", "))
    }

    fn takes_query(&self) -> bool {
        self.arguments.len() == 4
    }
}

impl LayerProbe<'_> {
    /// Looks up the layer's function.
    pub(crate) async fn function(&self, wanted: &TileFunction) -> Result<CalledFunction, Error> {
        let context = format!("layer \"{}\", looking up its function", self.options.name);
        let has_arguments = wanted.name.contains('(');
        let params: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
            [(&wanted.name, Type::TEXT), (&has_arguments, Type::BOOL)];
        let rows = self.session.all(&context, FUNCTIONS, &params).await.map_err(|error| match error {
            Error::Query { source, .. } => Error::Layer {
                layer: self.options.name.clone(),
                what: format!("function = {:?} is no name of a function", wanted.name),
                next: "Write schema.name as SQL has it, or schema.name(integer, integer, integer, json) if several functions have the name".to_owned(),
                source: Some(source),
            },
            other => other,
        })?;
        let found: Vec<FoundFunction> = rows.iter().map(FoundFunction::read).collect();
        let function = self.choose(wanted, found).await?;
        self.check_rights(&function)?;
        if wanted.query.is_some() && !function.takes_query() {
            return Err(self.error(
                format!("query is set, and {} takes nothing but the tile's address", function.signature()),
                "Leave query out, or give the function a fourth argument of type json".to_owned(),
            ));
        }
        let comment = FunctionComment::read(function.comment.as_deref());
        if let Some(kind) = comment.content_type.as_ref().filter(|kind| !is_tile_type(kind)) {
            return Err(self.error(
                format!(
                    "the comment of {} says that it gives {kind}, and only vector tiles can be stored",
                    function.signature()
                ),
                "Choose a function that returns what ST_AsMVT gives".to_owned(),
            ));
        }
        // If no query is configured, a function that takes one gets an empty object, like from a request without
        // parameters.
        let query = function.takes_query().then(|| wanted.query.clone().unwrap_or_else(|| "{}".to_owned()));
        Ok(CalledFunction {
            name: function.quoted(),
            query,
            body: hex(Md5::digest(&function.definition)),
            comment,
            is_bounded: wanted.is_bounded,
            arguments: function.arguments,
        })
    }

    /// Chooses the one function that the configuration means.
    async fn choose(&self, wanted: &TileFunction, found: Vec<FoundFunction>) -> Result<FoundFunction, Error> {
        if found.is_empty() {
            let context = format!("layer \"{}\", looking for functions", self.options.name);
            let names = self.session.all(&context, CANDIDATES, &[]).await?;
            let names: Vec<String> = names.iter().map(|row| row.get(0)).collect();
            let next = match &names[..] {
                [] => "No function of the database gives tiles. ".to_owned() + FORM,
                names => format!("Functions that give tiles: {}", names.join(", ")),
            };
            return Err(self.error(format!("there is no function {}", wanted.name), next));
        }
        let signatures =
            |found: &[FoundFunction]| found.iter().map(FoundFunction::signature).collect::<Vec<_>>().join(", ");
        let all = signatures(&found);
        let (mut fitting, _): (Vec<FoundFunction>, Vec<_>) =
            found.into_iter().partition(|function| function.gives_tiles);
        if fitting.is_empty() {
            return Err(self.error(format!("{all} gives no tiles"), FORM.to_owned()));
        }
        // If a query is configured, the function that takes one is meant; otherwise the function that takes none.
        if fitting.iter().any(|function| function.takes_query() == wanted.query.is_some()) {
            fitting.retain(|function| function.takes_query() == wanted.query.is_some());
        }
        if fitting.len() > 1 {
            let next = format!("Name one with the types of its arguments: function = {:?}", fitting[0].signature());
            return Err(
                self.error(format!("several functions are called {}: {}", wanted.name, signatures(&fitting)), next)
            );
        }
        Ok(fitting.remove(0))
    }

    fn check_rights(&self, function: &FoundFunction) -> Result<(), Error> {
        let role = quoted(&function.role);
        if !function.may_use_schema {
            let schema = quoted(&function.schema);
            return Err(self.error(
                format!("the role {role} may not use the schema {schema}"),
                format!("Run GRANT USAGE ON SCHEMA {schema} TO {role} as its owner"),
            ));
        }
        if !function.may_call {
            let signature = function.signature();
            return Err(self.error(
                format!("the role {role} may not call {signature}"),
                format!("Run GRANT EXECUTE ON FUNCTION {signature} TO {role} as its owner"),
            ));
        }
        Ok(())
    }

    /// The warning that a function is VOLATILE: PostgreSQL expects it to change data, or to return another result each
    /// time.
    pub(crate) async fn volatile(&self, function: &CalledFunction) -> Result<Option<String>, Error> {
        let context = format!("layer \"{}\", looking at its function", self.options.name);
        let sql = "SELECT provolatile = 'v' FROM pg_proc WHERE oid = to_regprocedure($1)";
        let signature = function.signature();
        let row = self.session.one(&context, sql, &[(&signature, Type::TEXT)]).await?;
        Ok(row.get::<_, bool>(0).then(|| {
            format!(
                "layer \"{}\": {signature} is VOLATILE, so a tile may come out differently each time. If it only reads, run ALTER FUNCTION {signature} STABLE",
                self.options.name
            )
        }))
    }
}
