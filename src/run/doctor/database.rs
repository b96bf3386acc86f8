//! Checks the server, the layers, the free sessions, and other sessions that may hold up a run.

use std::time::SystemTime;

use super::DoctorOptions;
use crate::change_log::notify_obstacle;
use crate::clock::since_1970;
use crate::postgis::{Database, Snapshot, try_layers};
use crate::report::{CheckArea, CheckLevel, Checkup};
use crate::run::{CommandError, TilesetRun};

const AREA: CheckArea = CheckArea::Database;
const CONTEXT: &str = "looking at the server";

/// The facts about the server, in one row. `free` is the number of free connections, without those that are reserved
/// for superusers. `left` is the number of connections that the role may still open.
const FACTS: &str = "
    SELECT current_setting('server_version'), postgis_lib_version(), current_user::text,
        extract(epoch FROM clock_timestamp())::float8, inet_server_port(),
        (current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8
            - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')) AS free,
        (SELECT CASE WHEN rolconnlimit >= 0 THEN rolconnlimit
                - (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user) END
            FROM pg_roles WHERE rolname = current_user) AS left_to_role,
        (SELECT string_agg(coalesce(quote_ident(r.rolname), 'all roles'), ', ')
            FROM pg_db_role_setting AS s LEFT JOIN pg_roles AS r ON r.oid = s.setrole
            WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
              AND 'session_replication_role=replica' = ANY (s.setconfig)) AS replicas";

/// The oldest transaction of another session and the oldest prepared transaction, with their ages in seconds.
const TRANSACTIONS: &str = "
    SELECT format('process %s of %s (%s)', pid, coalesce(usename, 'unknown'), coalesce(state, 'unknown')),
        extract(epoch FROM clock_timestamp() - xact_start)::float8,
        format('end it: SELECT pg_terminate_backend(%s); and set idle_in_transaction_session_timeout', pid)
    FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        AND datname = current_database()
    UNION ALL
    SELECT format('the prepared transaction %L of %s', gid, owner),
        extract(epoch FROM clock_timestamp() - prepared)::float8, format('end it: ROLLBACK PREPARED %L', gid)
    FROM pg_prepared_xacts WHERE database = current_database()
    ORDER BY 2 DESC LIMIT 3";

pub(crate) async fn check(
    run: &TilesetRun,
    database: &Database,
    options: &DoctorOptions,
    checkup: &mut Checkup,
) -> Result<(), CommandError> {
    let snapshot = database.snapshot().await?;
    layers(run, &snapshot, checkup).await?;
    let before = since_1970(SystemTime::now()).as_secs_f64();
    let rows = snapshot.all(CONTEXT, FACTS, &[]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (postgresql, postgis, role): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    let server = database.server();
    checkup.fine(AREA, format!("PostgreSQL {postgresql}, PostGIS {postgis}, {server}, as {role}"));
    clock(row.get(3), before, options, checkup);
    if let (Some(port), Some(asked)) = (row.get::<_, Option<i32>>(4), run.settings.database.connect.port())
        && port != i32::from(asked)
    {
        checkup.warn(
            AREA,
            format!("the server itself listens on port {port}, and {asked} answers: a pooler or a forwarded port is in between"),
            "a pooler has to give each client a session of its own (pool_mode = session in PgBouncer): a run exports a snapshot and holds it. A forwarded port is no problem",
        );
    }
    sessions(run, row.get(5), row.get(6), checkup);
    if let Some(roles) = row.get::<_, Option<String>>(7) {
        checkup.warn(
            AREA,
            format!("session_replication_role is replica for {roles}: ordinary triggers do not fire there"),
            "those of the change log do (ENABLE ALWAYS), but foreign keys and the triggers of others do not: ALTER ROLE … RESET session_replication_role",
        );
    }
    if let Some(obstacle) = notify_obstacle(&snapshot).await? {
        checkup.warn(
            AREA,
            format!("no notifications wake reseed --watch: {obstacle}"),
            "nothing is missed: the watch polls the change log instead, up to twice a second. If nobody prepares transactions, set max_prepared_transactions = 0",
        );
    }
    for row in snapshot.all(CONTEXT, TRANSACTIONS, &[]).await? {
        let (who, age, remedy): (String, f64, String) = (row.get(0), row.get(1), row.get(2));
        if age > options.transaction_age.as_secs_f64() {
            checkup.warn(
                AREA,
                format!("{who} has been in a transaction for {age:.0} s: until it ends, no dead row is cleaned up, and track prune keeps what was noted since"),
                remedy,
            );
        }
    }
    Ok(())
}

async fn layers(run: &TilesetRun, snapshot: &Snapshot, checkup: &mut Checkup) -> Result<(), CommandError> {
    // A layer that is drawn in several ways has the same problem in each of them.
    let mut said: Vec<String> = Vec::new();
    for trial in Box::pin(try_layers(snapshot, &run.settings.tileset.layers, true)).await? {
        let warnings = trial.warnings.into_iter().chain(trial.row_security).map(|text| (CheckLevel::Warning, text));
        let errors = trial.errors.iter().map(|error| (CheckLevel::Error, crate::error::with_causes(error)));
        let mut is_fine = true;
        for (level, text) in warnings.chain(errors) {
            is_fine = false;
            if !said.contains(&text) {
                checkup.add(AREA, level, text.clone());
                said.push(text);
            }
        }
        for flawed in &trial.flaws {
            is_fine &= flawed.are_repaired;
            let what = if flawed.are_repaired { flawed.repaired() } else { flawed.problem() };
            let text = format!("layer \"{}\": {what}", trial.layer);
            if said.contains(&text) {
                continue;
            }
            if flawed.are_repaired {
                checkup.fine(AREA, text.clone());
            } else {
                checkup.warn(AREA, text.clone(), flawed.remedies());
            }
            said.push(text);
        }
        let fine = format!("layer \"{}\" can be drawn: rights, geometry, key and index are there", trial.layer);
        if is_fine && !said.contains(&fine) {
            checkup.fine(AREA, fine.clone());
            said.push(fine);
        }
    }
    Ok(())
}

fn clock(server: f64, before: f64, options: &DoctorOptions, checkup: &mut Checkup) {
    // The server's clock was read between the two readings of this machine's clock.
    let after = since_1970(SystemTime::now()).as_secs_f64();
    let difference = if server < before { before - server } else { (server - after).max(0.0) };
    if difference > options.clock_difference.as_secs_f64() {
        checkup.warn(
            AREA,
            format!("the server's clock and this machine's differ by {difference:.1} s"),
            "let both follow a time server (timedatectl set-ntp true): leases in buckets, ages and metrics compare their clocks",
        );
    }
}

fn sessions(run: &TilesetRun, free: i64, left: Option<i64>, checkup: &mut Checkup) {
    // In addition to the workers: the session that holds the snapshot, and the one that watches who waits for locks.
    let wanted = i64::try_from(run.settings.run.workers.get()).unwrap_or(i64::MAX).saturating_add(2);
    let limits =
        [(Some(free), "the server", "raise max_connections"), (left, "this role", "ALTER ROLE … CONNECTION LIMIT")];
    for (left, whose, remedy) in limits {
        if let Some(left) = left
            && left < wanted
        {
            checkup.warn(
                AREA,
                format!("{whose} has {} free connections, and a run opens {wanted}", left.max(0)),
                format!("lower workers, or {remedy}"),
            );
        }
    }
}
