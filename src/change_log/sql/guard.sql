-- Only superusers and the role that runs this script may alter the schema: code that others put there would run with the rights of that role.
DO $oar_tiles$
DECLARE
    holder  text;
    wrong   text;
BEGIN
    SELECT r.rolname INTO holder FROM pg_namespace AS n JOIN pg_roles AS r ON r.oid = n.nspowner WHERE n.nspname = {name};
    IF holder <> current_user THEN
        IF NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = current_user) THEN
            RAISE EXCEPTION 'the schema % belongs to the role %', {quoted}, quote_ident(holder) USING ERRCODE = 'insufficient_privilege';
        ELSIF NOT (SELECT r.rolsuper FROM pg_roles AS r WHERE r.rolname = holder) THEN
            wrong := format('it belongs to "%s"', holder);
        END IF;
    END IF;
    SELECT coalesce(wrong, string_agg(found.what, '; ')) INTO wrong FROM (
{trust}
    ) AS found WHERE NOT found.is_mendable;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the schema % is not safe for the change log: %', {quoted}, wrong USING ERRCODE = '{unsafe}';
    END IF;
END
$oar_tiles$;
