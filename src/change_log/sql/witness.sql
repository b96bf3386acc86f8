-- The newest {most} transactions in the log that fulfil {condition}, newest first, each with one of its entries. A transaction is committed as a whole
-- or not at all, so one entry stands for all of them. For each transaction the index is read once, so this takes the same time however long the log is.
WITH RECURSIVE newest AS (
    SELECT 1 AS place, (SELECT e.xid FROM {schema}.change AS e WHERE {condition} ORDER BY e.xid DESC LIMIT 1) AS xid
    UNION ALL
    SELECT newest.place + 1, (SELECT e.xid FROM {schema}.change AS e WHERE e.xid < newest.xid AND {condition} ORDER BY e.xid DESC LIMIT 1)
    FROM newest WHERE newest.xid IS NOT NULL AND newest.place < {most}
)
SELECT newest.place, newest.xid, entry.* FROM newest CROSS JOIN LATERAL (
    -- A transaction may have thousands of entries. Any plan reads the first of them, in the order in which they lie in the table, which VACUUM FULL keeps.
    SELECT * FROM (SELECT e.ctid AS id, e.at, e.watch, e.rows FROM {schema}.change AS e WHERE e.xid = newest.xid LIMIT 32) AS first
    ORDER BY first.at, first.watch, first.rows LIMIT 1
) AS entry
