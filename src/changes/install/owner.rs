//! The role that owns the trigger functions. The functions run with its rights.

use md5::{Digest as _, Md5};
use tokio_postgres::types::Type;

use crate::changes::error::ChangeLogError;
use crate::changes::log::{Facts, SAFE_LAYOUT, literal_in_block, of_schema};
use crate::changes::relations::PlannedWatch;
use crate::postgis::{Session, quoted};
use crate::suggested::TRACK_INSTALL;

/// The owner of the trigger functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::changes) enum FunctionOwner {
    /// A role that an install makes and a removal drops.
    Made(String),
    /// A role that the user named.
    Given(String),
    /// The owner of each table, because the role that installs may not make roles.
    OfEachTable,
}

/// The query for the objects in PostGIS's schema on which `{role}` has been granted rights.
pub(in crate::changes) const GIVEN: &str = include_str!("sql/given.sql");

/// The role that installs.
pub(in crate::changes) struct Installer {
    role: String,
    is_superuser: bool,
    may_make_roles: bool,
    database: u32,
    /// The owner of the log's schema, and whether that is a superuser; `None` if there is no such schema.
    schema_owner: Option<(String, bool)>,
}

/// The facts that decide which role owns the trigger functions of a log.
#[derive(Clone, Copy)]
pub(in crate::changes) struct LogOwnership<'a> {
    /// The schema of the log.
    pub(in crate::changes) schema: &'a str,
    /// The role that the user named.
    pub(in crate::changes) given: Option<&'a str>,
    /// The log as installed; `None` if no log is installed.
    pub(in crate::changes) facts: Option<&'a Facts>,
    /// The planned watches.
    pub(in crate::changes) watched: &'a [PlannedWatch],
}

impl Installer {
    pub(in crate::changes) async fn look_up(
        session: &Session,
        schema: &str,
        context: &str,
    ) -> Result<Installer, ChangeLogError> {
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
    pub(in crate::changes) fn distrusted_owner(&self) -> Option<&str> {
        match &self.schema_owner {
            Some((owner, false)) if self.is_superuser && *owner != self.role => Some(owner),
            _ => None,
        }
    }

    /// A warning if other roles own watched tables: their backups fail unless they may read the log.
    pub(in crate::changes) fn warn_of_backups(
        &self,
        schema: &str,
        watched: &[PlannedWatch],
        readers: &[String],
    ) -> Option<String> {
        let cannot_read = |owner: &String| *owner != self.role && !readers.contains(owner);
        let mut tables = watched.iter().map(|watch| &watch.table);
        let owner = &tables.find(|table| !table.is_of_superuser && cannot_read(&table.owner))?.owner;
        let (role, schema) = (quoted(owner), quoted(schema));
        Some(format!(
            "backups by {role}, who owns tracked tables, fail with \"permission denied for schema\" from now on, unless they leave the change log out: pg_dump -N '{schema}'. Or let the role read it: {TRACK_INSTALL} --reader {owner}"
        ))
    }

    /// The name of the log's own role. Roles belong to the whole server, so the name contains the OID of the database and a hash of the schema's
    /// name.
    fn role_of_log(&self, schema: &str) -> String {
        let hash: String = Md5::digest(schema).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        format!("oar_tiles_{}_{hash}", self.database)
    }

    /// Chooses the owner of the trigger functions. Printed statements (`is_printed`) are for a role that may make roles.
    pub(in crate::changes) async fn choose(
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
    pub(in crate::changes) fn differs(&self, facts: &Facts) -> bool {
        match self {
            FunctionOwner::Made(role) | FunctionOwner::Given(role) => facts.owner.as_ref() != Some(role),
            FunctionOwner::OfEachTable => facts.owner.is_some(),
        }
    }

    /// The step of the install, in words.
    pub(in crate::changes) fn step(&self) -> String {
        match self {
            FunctionOwner::Made(role) => {
                format!("role {}: the triggers run as it, and it can only append to the log", quoted(role))
            }
            FunctionOwner::Given(role) => format!("role {}: the triggers run as it", quoted(role)),
            FunctionOwner::OfEachTable => "the triggers run as the owner of each table".to_owned(),
        }
    }

    /// The statements before functions are created: they create the role, and make this session a member of it. `is_new` is true if no log records
    /// the role yet.
    pub(in crate::changes) fn begin(&self, schema: &str, is_new: bool) -> String {
        let make = match self {
            FunctionOwner::Made(_) => include_str!("sql/role.sql"),
            FunctionOwner::Given(_) | FunctionOwner::OfEachTable => "",
        };
        // The role's name is filled in last, because it may contain braces.
        of_schema(&format!("{make}{}", include_str!("sql/borrow.sql")), schema)
            .replace("{is_new}", &is_new.to_string())
            .replace("{chosen}", &self.literal())
    }

    /// The statements after functions were created: they set the functions' owner and its rights, and end the membership.
    pub(in crate::changes) fn end(&self, schema: &str) -> String {
        let is_made = matches!(self, FunctionOwner::Made(_));
        let parts =
            [include_str!("sql/rights.sql"), include_str!("sql/checked.sql"), include_str!("sql/give_back.sql")];
        of_schema(&parts.concat().replace("{given}", &GIVEN.replace("{role}", "former.owner")), schema)
            .replace("{is_made}", &is_made.to_string())
            .replace("{chosen}", &self.literal())
    }
}
