-- True if a role has the name of the log's schema $1 and "$user" on its search path, and is this role or owns one of the tables $2. The role's own
-- setting takes precedence over that of this session.
SELECT EXISTS (
    SELECT FROM pg_roles AS r
    WHERE r.rolname = $1
      AND (r.rolname = current_user OR EXISTS (SELECT FROM pg_class AS c WHERE c.oid = ANY ($2) AND c.relowner = r.oid))
      AND coalesce(
          (SELECT substr(set.text, length('search_path=') + 1)
           FROM pg_db_role_setting AS s CROSS JOIN unnest(s.setconfig) AS set (text)
           WHERE s.setrole = r.oid AND set.text LIKE 'search_path=%'
             AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()))
           ORDER BY s.setdatabase DESC LIMIT 1),
          (SELECT p.reset_val FROM pg_settings AS p WHERE p.name = 'search_path')) LIKE '%$user%')
