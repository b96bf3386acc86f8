//! Installs and removes the change log. An install is planned first, then run or printed as one script.
//!
//! | file | subject |
//! |---|---|
//! | `trigger` | the trigger function of a watch |
//! | `script` | the whole script, from BEGIN to COMMIT; the statements of one watch, and of the columns that a layer needs; the tables that are locked, and the attempts to lock them |

mod script;
mod trigger;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use md5::{Digest as _, Md5};
use script::{
    BEGIN, ScriptContext, ScriptWork, TableLocks, WatchChange, WatchScript, add_needs, lock_block, run_script,
};
use tokio_postgres::types::Type;

use super::error::ChangeLogError;
use super::facts::Facts;
use super::gap::LogGap;
use super::log::{LAYOUT, Presence, SAFE_LAYOUT, literal, literal_in_block, of_schema};
use super::relations::{
    PlannedWatch, RequestCondition, Table, WatchRequest, WatchSource, depends_on_row_alone, layer_reads,
};
use super::safety::{SchemaFlaws, namesake};
use super::{ChangesSection, definition};
use crate::cursor::Cursor;
use crate::hex::hex;
use crate::postgis::{Database, Layer, Session, quoted};
use crate::suggested::{SEED, TRACK_INSTALL};

pub(crate) use script::{InstallKind, Installation};

/// The parameters of an install in addition to the layers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InstallRequest<'a> {
    /// Roles that may read the log.
    pub readers: &'a [String],
    /// The role that will own the trigger functions; `None` to let the install make one if it may.
    pub owner: Option<&'a str>,
    /// True if the statements are printed for another role to run, which may have more rights than this one.
    pub(crate) is_printed: bool,
}

/// A layer whose changes are to be logged.
pub(crate) struct TrackedLayer {
    pub(crate) layer: Arc<Layer>,
    /// The conditions by which requests narrow it.
    pub(crate) conditions: Vec<RequestCondition>,
}

const CONTEXT: &str = "reading the state of the change log";

/// Plans the install for some layers of a probed database. Changes nothing. Fails if a layer reads a table that cannot
/// be watched, the schema holds other tables or is not safe, or the trigger functions would belong to a superuser.
pub(crate) async fn plan_install(
    database: &Database,
    options: &ChangesSection,
    tracked: &[TrackedLayer],
    request: InstallRequest<'_>,
) -> Result<Installation, ChangeLogError> {
    let schema = &options.schema;
    let postgis = database.postgis_schema().unwrap_or("public");
    let session = database.writing().await?;
    session.begin_writing(CONTEXT).await?;
    let mut plan = Plan { postgis, options, statements: Vec::new(), steps: Vec::new(), locks: TableLocks::default() };
    let mut warnings = Vec::new();
    let mut needs: Vec<(Arc<Layer>, Vec<WatchRequest>)> = Vec::new();
    for TrackedLayer { layer, conditions } in tracked {
        let (mut reads, mut further_warnings) = (layer_reads(&session, layer).await?, Vec::new());
        needs.push((Arc::clone(layer), std::mem::take(&mut reads.requests)));
        for condition in conditions {
            // Of other conditions, nobody can tell from the log whether a row still fulfils them.
            if condition.is_tracked || depends_on_row_alone(&session, layer, condition).await? {
                let narrowed = Arc::new(layer.narrowed_by(&condition.sql));
                let narrowed_reads = layer_reads(&session, &narrowed).await?;
                // PostgreSQL believes what a function says of itself, but the catalog may know that it reads a table.
                // What a tracked condition reads, only the catalog knows: nothing may be left open there, not even
                // what the layer leaves open as well.
                let known = if condition.is_tracked { 0 } else { reads.warnings.len() };
                if narrowed_reads.warnings.len() <= known {
                    needs.push((narrowed, narrowed_reads.requests));
                } else if condition.is_tracked {
                    let further = narrowed_reads.warnings.into_iter();
                    further_warnings.extend(further.filter(|warning| !reads.warnings.contains(warning)));
                    further_warnings.push(format!(
                        "layer \"{}\": the condition {} is said to be tracked, and may read what the change log does not note, for the reason above: tracked has no effect",
                        layer.name(),
                        condition.sql
                    ));
                }
            }
        }
        warnings.append(&mut reads.warnings);
        warnings.append(&mut further_warnings);
    }
    // From here on, names mean PostgreSQL's own objects, regardless of who owns the other schemas of the search path.
    session.script(CONTEXT, "SET LOCAL search_path = pg_catalog, pg_temp").await?;
    let installer = Installer::look_up(&session, schema, CONTEXT).await?;
    let planned = plan.planned_watches(&session, needs.iter().flat_map(|(_, requests)| requests)).await;
    let mut watched = match planned {
        // A condition's columns cannot always be watched, as on an inheritance child of whose parent they are missing.
        Err(error) if needs.len() > tracked.len() => {
            needs.retain(|(layer, _)| tracked.iter().any(|tracked| Arc::ptr_eq(&tracked.layer, layer)));
            let watched = plan.planned_watches(&session, needs.iter().flat_map(|(_, requests)| requests)).await?;
            warnings.push(format!("the columns that parameters' conditions read are not in the change log: {error}"));
            watched
        }
        planned => planned?,
    };
    let layers: Vec<Arc<Layer>> = needs.iter().map(|(layer, _)| Arc::clone(layer)).collect();
    warnings.append(&mut replicated(&session, &watched).await?);
    let tables: Vec<u32> = watched.iter().map(|watch| watch.request.relation).collect();
    warnings.extend(namesake(&session, schema, &tables, CONTEXT).await?);
    let flaws = plan.check_trust(&session, database, &installer).await?;
    let facts = plan.installed(&session, &layers, &watched).await?;
    if let Some(facts) = facts.as_ref().filter(|facts| facts.layout < LAYOUT) {
        plan.add_others(&session, facts, &mut watched).await?;
    }
    if facts.is_none() {
        warnings.extend(installer.warn_of_backups(schema, &watched, request.readers));
    }
    let log = LogOwnership { schema, given: request.owner, facts: facts.as_ref(), watched: &watched };
    let owner = installer.choose(&session, &log, request.is_printed).await?;
    session.script(CONTEXT, "ROLLBACK").await?;

    let mut last = facts.as_ref().map_or(0, |facts| facts.last_watch);
    let dropped = facts.iter().flat_map(|facts| &facts.watches).filter(|watch| watch.current_name.is_none());
    for watch in dropped {
        plan.step(&WatchScript::forget(schema, watch.id), format!("{}: gone, and forgotten", watch.name));
    }
    let mut numbers: BTreeMap<(u32, WatchSource), i32> = BTreeMap::new();
    for watch in &watched {
        let before = facts.iter().flat_map(|facts| &facts.watches).find(|before| watch.is_installed_as(before));
        let number = before.map_or_else(|| last + 1, |before| before.id);
        last = last.max(number);
        numbers.insert((watch.request.relation, watch.request.source.clone()), number);
        let script = WatchScript { options, postgis, number, watch, before };
        if let Some(WatchChange { sql, step, locks }) = script.write() {
            plan.step(&sql, step);
            plan.locks.merge(locks);
        }
    }
    for (layer, requests) in &needs {
        let wanted: Vec<(i32, Vec<String>)> = requests
            .iter()
            .filter_map(|request| {
                let key = (request.relation, request.source.clone());
                let watch =
                    watched.iter().find(|watch| (watch.request.relation, &watch.request.source) == (key.0, &key.1))?;
                Some((*numbers.get(&key)?, watch.needed_columns(request)))
            })
            .collect();
        if let Some(sql) = add_needs(schema, layer, &wanted, facts.as_ref()) {
            plan.step(&sql, format!("layer \"{}\": noted what it needs", layer.name()));
        }
    }
    let is_unsafe = !flaws.mendable.is_empty() || !flaws.lacking.is_empty();
    let transaction = ScriptContext { schema, postgis, facts: facts.as_ref(), owner: &owner, is_unsafe, last };
    let work = ScriptWork { statements: plan.statements, steps: plan.steps, locks: plan.locks };
    Ok(transaction.write(work, request.readers, warnings))
}

/// The statements of an install while it is planned.
struct Plan<'a> {
    postgis: &'a str,
    options: &'a ChangesSection,
    statements: Vec<String>,
    steps: Vec<String>,
    locks: TableLocks,
}

impl Plan<'_> {
    fn step(&mut self, sql: &str, step: String) {
        // The name of a table may contain a line break, which would end the comment.
        let remark: String = step.chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
        self.statements.push(format!("-- {remark}\n{sql}"));
        // A layer that is drawn in several ways needs the same for each of them.
        if self.steps.last() != Some(&step) {
            self.steps.push(step);
        }
    }

    /// Returns an error if other roles can alter the schema. Until this check, nothing in the schema was read.
    async fn check_trust(
        &self,
        session: &Session,
        database: &Database,
        installer: &Installer,
    ) -> Result<SchemaFlaws, ChangeLogError> {
        let (schema, server) = (&self.options.schema, database.server());
        if let Presence::Foreign = Presence::look_up(session, schema, CONTEXT).await? {
            return Err(ChangeLogError::Foreign { schema: quoted(schema), server: server.clone() });
        }
        let mut flaws = SchemaFlaws::look_up(session, schema, CONTEXT).await?;
        if let Some(owner) = installer.distrusted_owner() {
            let what = format!("it belongs to {}, who is no superuser, and is not who installs", quoted(owner));
            flaws.lasting.insert(0, what);
        }
        flaws.check(schema, server)?;
        Ok(flaws)
    }

    /// The watches that the layers request; each pair of a table and a source occurs once.
    async fn planned_watches<'w>(
        &self,
        session: &Session,
        requests: impl Iterator<Item = &'w WatchRequest>,
    ) -> Result<Vec<PlannedWatch>, ChangeLogError> {
        let mut all: Vec<PlannedWatch> = Vec::new();
        for request in requests {
            let known = all
                .iter_mut()
                .find(|watch| watch.request.relation == request.relation && watch.request.source == request.source);
            if let Some(known) = known {
                let needed = known.needed_columns(request);
                known.columns.extend(needed);
                continue;
            }
            let table = Table::look_up(session, self.postgis, request.relation, CONTEXT).await?;
            let mut watch = PlannedWatch { request: request.clone(), table, columns: BTreeSet::new() };
            watch.columns = watch.needed_columns(request).into_iter().collect();
            watch.columns.extend(watch.table.key.iter().map(|key| key.name.clone()));
            all.push(watch);
        }
        for watch in &all {
            watch.check()?;
        }
        Ok(all)
    }

    /// The installed log; `None` if there is none.
    async fn installed(
        &self,
        session: &Session,
        layers: &[Arc<Layer>],
        watched: &[PlannedWatch],
    ) -> Result<Option<Facts>, ChangeLogError> {
        let schema = &self.options.schema;
        match Presence::look_up(session, schema, CONTEXT).await? {
            Presence::Readable => {}
            // A schema with other tables is an error that was returned before.
            Presence::Nothing | Presence::Foreign => return Ok(None),
            Presence::Unreadable { role } => {
                return Err(ChangeLogError::Installed(LogGap::Unreadable { role, schema: quoted(schema) }));
            }
        }
        let definitions: Vec<String> = layers.iter().map(|layer| definition(layer)).collect();
        let mut tables: Vec<u32> = watched.iter().map(|watch| watch.request.relation).collect();
        let mut facts = Facts::look_up(session, schema, &definitions, &tables, &Cursor::default(), CONTEXT).await?;
        if facts.layout > LAYOUT {
            let schema = quoted(schema);
            return Err(ChangeLogError::Installed(LogGap::Newer { schema, found: facts.layout, known: LAYOUT }));
        }
        if facts.layout < LAYOUT {
            let sql = format!("SELECT array_agg(relation) FROM {}.watch", quoted(schema));
            tables = session.one(CONTEXT, &sql, &[]).await?.get::<_, Option<Vec<u32>>>(0).unwrap_or_default();
            facts = Facts::look_up(session, schema, &definitions, &tables, &Cursor::default(), CONTEXT).await?;
        }
        Ok(Some(facts))
    }

    /// Adds the watches that other configurations installed, so that their functions are replaced, too.
    async fn add_others(
        &self,
        session: &Session,
        facts: &Facts,
        watched: &mut Vec<PlannedWatch>,
    ) -> Result<(), ChangeLogError> {
        for before in &facts.watches {
            let is_where_it_was = before.current_name.as_ref() == Some(&before.name);
            if !is_where_it_was || watched.iter().any(|watch| watch.is_installed_as(before)) {
                continue;
            }
            let table = Table::look_up(session, self.postgis, before.relation, CONTEXT).await?;
            let columns: BTreeSet<String> = before.columns.iter().map(|column| column.name.clone()).collect();
            let columns = columns.into_iter().filter(|name| table.column(name).is_some()).collect::<BTreeSet<_>>();
            // A column was dropped, so the watch's function logs "everything".
            if before.geometry.iter().chain(&before.logged).any(|name| !columns.contains(name)) {
                continue;
            }
            let source = match (&before.geometry, &before.query) {
                (Some(column), _) => WatchSource::Column(column.clone()),
                (None, sql) => {
                    WatchSource::Query { sql: sql.clone().unwrap_or_default(), logged: before.logged.clone() }
                }
            };
            let request = WatchRequest {
                layer: String::new(),
                relation: before.relation,
                name: before.name.clone(),
                source,
                columns: Some(columns.clone()),
            };
            watched.push(PlannedWatch { request, table, columns });
        }
        Ok(())
    }
}

/// Runs an installation in one transaction. Fails if the role lacks a right, a table is locked for too long, or another
/// install ran in the meantime.
pub(crate) async fn run(database: &Database, installation: &Installation) -> Result<(), ChangeLogError> {
    run_script(database, "install", &installation.sql).await.map(drop)
}

/// The statements that remove the log with its triggers.
pub(crate) fn removal(schema: &str) -> String {
    let state = literal(&format!("{}.state", quoted(schema)));
    let borrow = include_str!("sql/borrow_role.sql")
        .replace("{chosen}", "(SELECT to_jsonb(s) ->> 'owner' FROM {schema}.state AS s)");
    let sql =
        include_str!("sql/remove.sql").replace("{begin}", BEGIN.trim_end()).replace("{borrow}", borrow.trim_end());
    let sql = sql.replace("{lock}", lock_block(include_str!("sql/watched_tables.sql").trim_end()).trim_end());
    let sql = sql.replace("{given}", &GIVEN.replace("{role}", "owner"));
    let sql = sql.replace("{give_back}", include_str!("sql/give_back_role.sql").trim_end());
    of_schema(&sql.replace("{schema_state}", &state), schema)
}

/// Removes the log with its triggers in one transaction. Returns one line for each thing that was removed. Fails if
/// there is no log in the schema, the role lacks a right, or a table is locked for too long.
pub(crate) async fn remove(database: &Database, schema: &str) -> Result<Vec<String>, ChangeLogError> {
    let (name, server) = (quoted(schema), database.server().clone());
    let session = database.writing().await?;
    session.begin_writing_without_search_path(CONTEXT).await?;
    match Presence::look_up(&session, schema, CONTEXT).await? {
        Presence::Readable => {
            let others = session.all(CONTEXT, &of_schema(include_str!("sql/foreign_objects.sql"), schema), &[]).await?;
            let others: Vec<(String, String)> = others.iter().map(|row| (row.get(0), row.get(1))).collect();
            if let Some((kind, first)) = others.first() {
                let next = format!("ALTER {kind} {first} SET SCHEMA public");
                let objects =
                    others.iter().map(|(kind, name)| format!("{} {name}", kind.to_lowercase())).collect::<Vec<_>>();
                let objects = objects.join(", ");
                return Err(ChangeLogError::HoldsOthers { schema: name, server, objects, next });
            }
        }
        Presence::Unreadable { .. } => {}
        Presence::Foreign => return Err(ChangeLogError::Foreign { schema: name, server }),
        Presence::Nothing => return Err(ChangeLogError::NotThere { schema: name, server }),
    }
    session.script(CONTEXT, "ROLLBACK").await?;
    drop(session);
    run_script(database, "remove", &removal(schema)).await
}

/// A warning for each watched table that logical replication writes, which fires no triggers of statements.
async fn replicated(session: &Session, watched: &[PlannedWatch]) -> Result<Vec<String>, ChangeLogError> {
    let relations: Vec<u32> = watched.iter().map(|watch| watch.request.relation).collect();
    let sql = "SELECT DISTINCT format('%I.%I', n.nspname, c.relname)
               FROM pg_subscription_rel AS s JOIN pg_class AS c ON c.oid = s.srrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace
               WHERE s.srrelid = ANY ($1) OR EXISTS (SELECT FROM pg_partition_ancestors(s.srrelid) AS a WHERE a::oid = ANY ($1))
               ORDER BY 1";
    let rows = session.all(CONTEXT, sql, &[(&relations, Type::OID_ARRAY)]).await?;
    let warning = |table: String| {
        format!(
            "{table} is written by logical replication, which fires no triggers of statements: what it changes will not be noted, and reseed refuses its layers. Track the changes in the database that publishes it, or run {SEED} each time"
        )
    };
    Ok(rows.iter().map(|row| warning(row.get(0))).collect())
}

// The role that owns the trigger functions. The functions run with its rights.

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FunctionOwner {
    /// A role that an install makes and a removal drops.
    Made(String),
    /// A role that the user named.
    Given(String),
    /// The owner of each table, because the role that installs may not make roles.
    OfEachTable,
}

/// The query for the objects in PostGIS's schema on which `{role}` has been granted rights.
pub(crate) const GIVEN: &str = include_str!("sql/granted_objects.sql");

/// The role that installs.
pub(crate) struct Installer {
    role: String,
    is_superuser: bool,
    may_make_roles: bool,
    database: u32,
    /// The owner of the log's schema, and whether that is a superuser; `None` if there is no such schema.
    schema_owner: Option<(String, bool)>,
}

/// The facts that decide which role owns the trigger functions of a log.
#[derive(Clone, Copy)]
pub(crate) struct LogOwnership<'a> {
    pub(crate) schema: &'a str,
    /// The role that the user named.
    pub(crate) given: Option<&'a str>,
    /// The log as installed; `None` if no log is installed.
    pub(crate) facts: Option<&'a Facts>,
    pub(crate) watched: &'a [PlannedWatch],
}

impl Installer {
    pub(crate) async fn look_up(session: &Session, schema: &str, context: &str) -> Result<Installer, ChangeLogError> {
        let sql = "
            SELECT r.rolname::text, r.rolsuper, r.rolsuper OR r.rolcreaterole, d.oid, o.rolname::text, o.rolsuper
            FROM pg_roles AS r
            JOIN pg_database AS d ON d.datname = current_database()
            LEFT JOIN pg_namespace AS n ON n.nspname = $1
            LEFT JOIN pg_roles AS o ON o.oid = n.nspowner
            WHERE r.rolname = current_user";
        let row = session.one(context, sql, &[(&schema, Type::TEXT)]).await?;
        let schema_owner: Option<String> = row.get(4);
        Ok(Installer {
            role: row.get(0),
            is_superuser: row.get(1),
            may_make_roles: row.get(2),
            database: row.get(3),
            schema_owner: schema_owner.map(|owner| (owner, row.get(5))),
        })
    }

    /// The owner of the schema, if that role could trick an installing superuser into running its code.
    pub(crate) fn distrusted_owner(&self) -> Option<&str> {
        match &self.schema_owner {
            Some((owner, false)) if self.is_superuser && *owner != self.role => Some(owner),
            _ => None,
        }
    }

    /// A warning if other roles own watched tables: their backups fail unless they may read the log.
    pub(crate) fn warn_of_backups(&self, schema: &str, watched: &[PlannedWatch], readers: &[String]) -> Option<String> {
        let cannot_read = |owner: &String| *owner != self.role && !readers.contains(owner);
        let mut tables = watched.iter().map(|watch| &watch.table);
        let owner = &tables.find(|table| !table.is_of_superuser && cannot_read(&table.owner))?.owner;
        let (role, schema) = (quoted(owner), quoted(schema));
        Some(format!(
            "backups by {role}, who owns tracked tables, fail with \"permission denied for schema\" from now on, unless they leave the change log out: pg_dump -N '{schema}'. Or let the role read it: {TRACK_INSTALL} --reader {owner}"
        ))
    }

    /// The name of the log's own role. Roles belong to the whole server, so the name contains the OID of the database
    /// and a hash of the schema's name.
    fn role_of_log(&self, schema: &str) -> String {
        let hash = hex(&Md5::digest(schema)[..4]);
        format!("oar_tiles_{}_{hash}", self.database)
    }

    /// Chooses the owner of the trigger functions. Printed statements (`is_printed`) are for a role that may make
    /// roles.
    pub(crate) async fn choose(
        &self,
        session: &Session,
        log: &LogOwnership<'_>,
        is_printed: bool,
    ) -> Result<FunctionOwner, ChangeLogError> {
        let LogOwnership { schema, given, facts, watched } = *log;
        let recorded = facts.filter(|facts| facts.layout >= SAFE_LAYOUT);
        let owner = match (given, recorded) {
            (Some(role), _) => FunctionOwner::Given(role.to_owned()),
            (None, Some(Facts { owner: Some(role), owner_is_made: true, .. })) => FunctionOwner::Made(role.clone()),
            (None, Some(Facts { owner: Some(role), .. })) => FunctionOwner::Given(role.clone()),
            (None, None) if self.may_make_roles || is_printed => FunctionOwner::Made(self.role_of_log(schema)),
            (None, _) => FunctionOwner::OfEachTable,
        };
        match &owner {
            FunctionOwner::Given(role) => {
                let sql = "SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = $1";
                let found = session.all("looking for the owner of the functions", sql, &[(role, Type::TEXT)]).await?;
                match found.first().map(|row| row.get(0)) {
                    Some(false) => {}
                    Some(true) => return Err(self.refused(role, "is a superuser", schema)),
                    None => return Err(self.refused(role, "is not there", schema)),
                }
            }
            FunctionOwner::OfEachTable => {
                let table = watched.iter().find(|watch| watch.table.is_of_superuser && watch.table.is_ours);
                if let Some(watch) = table {
                    return Err(ChangeLogError::SuperusersTable {
                        table: watch.request.name.clone(),
                        owner: quoted(&watch.table.owner),
                        next: self.statements(&self.role_of_log(schema)),
                        role: self.role_of_log(schema),
                    });
                }
            }
            FunctionOwner::Made(_) => {}
        }
        Ok(owner)
    }

    fn refused(&self, role: &str, what: &'static str, schema: &str) -> ChangeLogError {
        let better = if what == "is not there" { role.to_owned() } else { self.role_of_log(schema) };
        ChangeLogError::WrongOwner { role: quoted(role), what, next: self.statements(&better), better }
    }

    /// The statements that create a role which this installer may use.
    fn statements(&self, role: &str) -> String {
        let (role, to) = (quoted(role), quoted(&self.role));
        let grant = if self.is_superuser { String::new() } else { format!(" GRANT {role} TO {to};") };
        format!("CREATE ROLE {role} NOLOGIN NOINHERIT;{grant}")
    }
}

impl FunctionOwner {
    /// The role as a literal; NULL for the owner of each table.
    fn literal(&self) -> String {
        match self {
            FunctionOwner::Made(role) | FunctionOwner::Given(role) => literal_in_block(role),
            FunctionOwner::OfEachTable => "NULL".to_owned(),
        }
    }

    /// True if the log records another owner.
    pub(crate) fn differs(&self, facts: &Facts) -> bool {
        match self {
            FunctionOwner::Made(role) | FunctionOwner::Given(role) => facts.owner.as_ref() != Some(role),
            FunctionOwner::OfEachTable => facts.owner.is_some(),
        }
    }

    /// The step of the install, in words.
    pub(crate) fn step(&self) -> String {
        match self {
            FunctionOwner::Made(role) => {
                format!("role {}: the triggers run as it, and it can only append to the log", quoted(role))
            }
            FunctionOwner::Given(role) => format!("role {}: the triggers run as it", quoted(role)),
            FunctionOwner::OfEachTable => "the triggers run as the owner of each table".to_owned(),
        }
    }

    /// The statements before functions are created: they create the role, and make this session a member of it.
    /// `is_new` is true if no log records the role yet.
    pub(crate) fn begin(&self, schema: &str, is_new: bool) -> String {
        let make = match self {
            FunctionOwner::Made(_) => include_str!("sql/role.sql"),
            FunctionOwner::Given(_) | FunctionOwner::OfEachTable => "",
        };
        // The role's name is filled in last, because it may contain braces.
        of_schema(&format!("{make}{}", include_str!("sql/borrow_role.sql")), schema)
            .replace("{is_new}", &is_new.to_string())
            .replace("{chosen}", &self.literal())
    }

    /// The statements after functions were created: they set the functions' owner and its rights, and end the
    /// membership.
    pub(crate) fn end(&self, schema: &str) -> String {
        let is_made = matches!(self, FunctionOwner::Made(_));
        let parts = [
            include_str!("sql/rights.sql"),
            include_str!("sql/check_triggers.sql"),
            include_str!("sql/give_back_role.sql"),
        ];
        of_schema(&parts.concat().replace("{given}", &GIVEN.replace("{role}", "former.owner")), schema)
            .replace("{is_made}", &is_made.to_string())
            .replace("{chosen}", &self.literal())
    }
}
