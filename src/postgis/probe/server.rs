//! The server and database: their identity, and the check that they are new enough.

use crate::manifest::DatabaseIdentity;
use crate::postgis::session::{Error, Session, Snapshot, quoted};

#[derive(Debug, Clone)]
pub struct Server {
    pub(crate) identity: DatabaseIdentity,
    /// True if the server is a standby.
    pub(crate) in_recovery: bool,
    /// The encoding of the database, such as `UTF8` or `LATIN1`.
    pub encoding: String,
}

/// The oldest PostGIS that works, major and minor version: it has `ST_TileEnvelope` with a margin, and `ST_AsMVT` with
/// feature ids.
const OLDEST_POSTGIS: (u32, u32) = (3, 1);

pub(crate) async fn server_of(snapshot: &Snapshot) -> Result<Server, Error> {
    server(&snapshot.keeper).await
}

/// Probes the server. PostGIS is located by its extension, because any role may have created a function with a name of
/// PostGIS.
pub(crate) async fn server(session: &Session) -> Result<Server, Error> {
    let context = "asking the server for its version";
    let found = session
        .all(
            context,
            "SELECT n.nspname::text, has_schema_privilege(n.oid, 'USAGE'), current_user::text, e.extversion
             FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'postgis'",
            &[],
        )
        .await?;
    let Some(row) = found.first() else { return Err(Error::NoPostgis { server: session.server().clone() }) };
    let (schema, usable, role, installed): (String, bool, String, String) =
        (quoted(&row.get::<_, String>(0)), row.get(1), row.get(2), row.get(3));
    if !usable {
        let role = quoted(&role);
        return Err(Error::Setting {
            what: format!("the role {role} may not use the schema {schema}, in which PostGIS is"),
            next: format!("run GRANT USAGE ON SCHEMA {schema} TO {role} as its owner"),
        });
    }
    let sql = format!(
        "SELECT {schema}.postgis_lib_version(), current_setting('server_version'), current_database()::text,
                (SELECT oid FROM pg_database WHERE datname = current_database()), pg_is_in_recovery(),
                has_function_privilege('pg_control_system()', 'EXECUTE'),
                CASE WHEN NOT pg_is_in_recovery()
                    THEN ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int4 END,
                current_setting('server_encoding')"
    );
    let row = session.one(context, &sql, &[]).await?;
    let postgis = row.get::<_, Option<String>>(0).unwrap_or(installed);
    let version: Vec<u32> = postgis.split(['.', '-', ' ']).map_while(|part| part.parse().ok()).collect();
    if let [major, minor, ..] = version[..]
        && (major, minor) < OLDEST_POSTGIS
    {
        return Err(Error::OldPostgis { server: session.server().clone(), found: postgis });
    }
    let system_identifier = if row.get::<_, bool>(5) {
        let sql = "SELECT system_identifier::text FROM pg_control_system()";
        Some(session.one(context, sql, &[]).await?.get(0))
    } else {
        None
    };
    // The control file of a standby has the timeline of its last restart point, which may be another one than that of
    // the data.
    let timeline = row.get::<_, Option<i32>>(6).map(i32::cast_unsigned);
    let identity = DatabaseIdentity {
        system_identifier,
        timeline,
        name: row.get(2),
        oid: row.get(3),
        postgresql: row.get(1),
        postgis,
    };
    Ok(Server { identity, in_recovery: row.get(4), encoding: row.get(7) })
}

/// Returns a warning if the role is a superuser and other roles own objects in the database. A role that reads a view
/// runs the view's functions with its own rights. A role that plans a query of a table does so with the functions in
/// the table's indexes.
pub(crate) async fn superuser(session: &Session) -> Result<Option<String>, Error> {
    // Only owners as whom somebody can act are counted. Nobody can log in as the role of the change log's triggers.
    let sql = "
        SELECT r.rolname::text,
            (SELECT o.rolname::text FROM pg_shdepend AS d JOIN pg_roles AS o ON o.oid = d.refobjid
             WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o' AND NOT o.rolsuper
               AND d.dbid = (SELECT b.oid FROM pg_database AS b WHERE b.datname = current_database())
               AND (o.rolcanlogin OR EXISTS (
                   SELECT FROM pg_auth_members AS m JOIN pg_roles AS u ON u.oid = m.member
                   WHERE m.roleid = o.oid AND NOT u.rolsuper))
             ORDER BY 1 LIMIT 1)
        FROM pg_roles AS r WHERE r.rolname = current_user AND r.rolsuper";
    let rows = session.all("asking which rights the role has", sql, &[]).await?;
    let found = rows.first().and_then(|row| Some((row.get::<_, String>(0), row.get::<_, Option<String>>(1)?)));
    Ok(found.map(|(role, other)| {
        format!(
            "the role {} is a superuser, and others own objects in this database (such as {}): any view, function or index of theirs that the layers read runs their functions with the rights of a superuser. Connect as a role that may only read",
            quoted(&role),
            quoted(&other)
        )
    }))
}
