//! Whether the role can do more than is good for a reader.

use super::error::Error;
use super::layer::quoted;
use super::session::Session;

/// A warning if the role is a superuser in a database in which others own something. Whoever reads a view runs the functions of
/// the view's owner with his own rights, and whoever plans a query of a table those in the table's indexes.
pub(super) async fn superuser(session: &Session) -> Result<Option<String>, Error> {
    // Of the owners those that somebody can be: the role of the change log's triggers is nobody's.
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
