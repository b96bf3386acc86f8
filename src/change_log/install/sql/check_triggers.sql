-- Regardless of the state before: the script fails if the triggers could do more than append to the log.
DO $oar_tiles$
DECLARE
    wrong  text;
BEGIN
    SELECT string_agg(found.what, '; ') INTO wrong FROM (
{trust}
    ) AS found;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the schema % is not safe for the change log: %', {quoted}, wrong USING ERRCODE = '{unsafe}';
    END IF;
    -- Otherwise every write to the tables would fail.
    SELECT string_agg(found.what, '; ') INTO wrong FROM (
{needed}
    ) AS found WHERE NOT found.is_held;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'the triggers would lack rights that this role may not grant: %. Have a superuser install, or name a role that has them with --owner', wrong USING ERRCODE = '{unsafe}';
    END IF;
END
$oar_tiles$;
