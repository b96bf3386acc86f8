-- The role as which the triggers run. It can only append to the log.
DO $oar_tiles$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {chosen}) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', {chosen});
        EXECUTE format('COMMENT ON ROLE %I IS %L', {chosen}, 'the triggers of an oar-tiles change log run as this role');
    ELSIF {is_new} AND EXISTS (
        SELECT FROM pg_auth_members AS m JOIN pg_roles AS r ON r.oid = m.member
        WHERE m.roleid = (SELECT o.oid FROM pg_roles AS o WHERE o.rolname = {chosen}) AND NOT r.rolsuper AND r.rolname <> current_user)
    THEN
        RAISE EXCEPTION 'the role % is there already and has members, who could alter what the triggers do: drop it, or name another role with --owner', {chosen}
            USING ERRCODE = '{unsafe}';
    ELSIF EXISTS (SELECT FROM pg_roles WHERE rolname = {chosen} AND (rolcanlogin OR rolcreatedb OR rolcreaterole)) THEN
        EXECUTE format('ALTER ROLE %I NOLOGIN NOCREATEDB NOCREATEROLE', {chosen});
    END IF;
END
$oar_tiles$;
