-- Whatever the state before: the script fails if the triggers could do more than append to the log.
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
END
$oar_tiles$;
