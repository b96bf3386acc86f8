(WITH RECURSIVE base AS (
                SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, t.typnamespace, t.typelem, {typmod} AS typmod
                FROM pg_type AS t WHERE t.oid = {type}
                UNION ALL
                SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, t.typnamespace, t.typelem, base.typtypmod
                FROM base JOIN pg_type AS t ON t.oid = base.typbasetype WHERE base.typtype = 'd'
            ),
            element AS (
                SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, t.typnamespace, base.typmod
                FROM base JOIN pg_type AS t ON t.oid = base.typelem AND t.typarray = base.oid
                UNION ALL
                SELECT t.oid, t.typtype, t.typbasetype, t.typtypmod, t.typnamespace, element.typtypmod
                FROM element JOIN pg_type AS t ON t.oid = element.typbasetype WHERE element.typtype = 'd'
            ),
            found AS (
                SELECT typtype, typnamespace, format_type(oid, typmod) || '[]' AS called, typtype = 'e' AS is_label_list
                FROM element WHERE typtype <> 'd'
                UNION ALL
                SELECT typtype, typnamespace, format_type(oid, typmod), false
                FROM base WHERE typtype <> 'd' AND NOT EXISTS (SELECT FROM element)
            )
            SELECT json_build_object('type_name', called, 'method', CASE
                WHEN typtype IN ('b', 'r', 'm') AND typnamespace = 'pg_catalog'::regnamespace THEN 'Cast'
                WHEN typtype = 'b' THEN 'InputFunction'
                WHEN typtype = 'e' AND NOT is_label_list THEN 'Label'
                END)
            FROM found)
