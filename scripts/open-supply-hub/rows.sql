-- The rows beside those of api_facility, by power laws, the same on every machine: a list for each 40 facilities, at most 30,000, a contributor for each 120,
-- at most 10,000. A facility stands in one to four lists. Then the index table, and its indexes.
CREATE TEMPORARY TABLE size AS SELECT least(30000, greatest(60, count(*) / 40))::int AS lists, least(10000, greatest(20, count(*) / 120))::int AS contributors
    FROM api_facility;
INSERT INTO api_contributor (id, name, contrib_type) SELECT i, 'Contributor ' || i,
    (ARRAY['Brand / Retailer', 'Civil Society Organization', 'Multi-Stakeholder Initiative', 'Union', 'Academic / Researcher / Journalist / Student',
        'Facility / Factory / Manufacturing Group / Supplier / Vendor', 'Auditor / Certification Scheme / Service Provider', 'Other'])[by_power('c' || i, 1, 8)]
    FROM size, generate_series(1, contributors) AS i;
INSERT INTO api_facilitylist (id, name) SELECT i, 'List ' || i FROM size, generate_series(1, lists) AS i;
INSERT INTO api_source (id, contributor_id, facility_list_id, is_public) SELECT i, by_power('l' || i, 2, contributors), i, i % 50 <> 49
    FROM size, generate_series(1, lists) AS i;
INSERT INTO api_facilitylistitem (id, facility_id, source_id, sector)
    SELECT row_number() OVER (ORDER BY f.created_at, source), f.id, source, ARRAY(
        SELECT DISTINCT CASE sector WHEN 1 THEN 'Apparel' WHEN 2 THEN 'Textiles' WHEN 3 THEN 'Footwear' ELSE 'Sector ' || sector END
        FROM generate_series(0, (chance(f.id, 60) * 2)::int) AS n, LATERAL (SELECT by_power(f.id || source, 70 + n, 117) AS sector) AS s)
    FROM api_facility AS f, size, LATERAL (SELECT DISTINCT by_power(f.id, 20 + n, lists) AS source FROM generate_series(0, floor(chance(f.id, 3) * 4)::int) AS n) AS s;
INSERT INTO api_facilitymatch (id, facility_id, facility_list_item_id, is_active) SELECT id, facility_id, id, id % 40 <> 7 FROM api_facilitylistitem;
INSERT INTO api_extendedfield (facility_id, contributor_id, field_name, value)
    SELECT f.id, by_power(f.id, 80, contributors), field, CASE field
        WHEN 'number_of_workers' THEN jsonb_build_object('min', workers, 'max', workers + CASE WHEN chance(f.id, 82) < 0.2 THEN workers ELSE 0 END)
        WHEN 'parent_company' THEN jsonb_build_object('name', 'Parent ' || parent) || CASE WHEN parent % 3 > 0 THEN jsonb_build_object('id', parent) ELSE '{}' END
        WHEN 'native_language_name' THEN jsonb_build_object('raw', (ARRAY['Dokuma', 'Têxtil', '纺织厂', 'Ткань'])[1 + parent % 4] || ' ' || substr(f.name, 1, 12))
        WHEN 'facility_type' THEN jsonb_build_object('raw', (ARRAY['Final Product Assembly', 'Textile or Material Production', 'Raw Material Processing or Production'])[1 + parent % 3])
        WHEN 'processing_type' THEN jsonb_build_object('raw', (ARRAY['Sewing', 'Cutting', 'Weaving', 'Dyeing', 'Washing'])[1 + parent % 5])
        ELSE jsonb_build_object('raw', (ARRAY['Shirts', 'Jeans & Denim', 'Shoes', 'Accessories'])[1 + parent % 4]) END
    FROM api_facility AS f, size, (VALUES (1, 'number_of_workers', 0.5), (2, 'parent_company', 0.2), (3, 'native_language_name', 0.1), (4, 'facility_type', 0.4),
        (5, 'processing_type', 0.3), (6, 'product_type', 0.3), (7, 'emissions_estimate', 0.02), (8, 'wage_survey', 0.01)) AS kind (number, field, share),
        LATERAL (SELECT power(20000, chance(f.id, 81))::int AS workers, by_power(f.id, 83, 2000) AS parent) AS value
    WHERE chance(f.id, 90 + number) < share;
INSERT INTO api_facilityclaim (facility_id, contributor_id, status) SELECT id, by_power(id, 5, contributors), (ARRAY['APPROVED', 'PENDING', 'DENIED'])[by_power(id, 6, 3)]
    FROM api_facility, size WHERE chance(id, 7) < 0.03;
INSERT INTO api_facilityalias (os_id, facility_id, reason) SELECT 'XX' || substr(id, 3), id, 'MERGE' FROM api_facility WHERE chance(id, 8) < 0.01;
INSERT INTO api_partnerfield (name, "group") VALUES ('emissions_estimate', 'climate'), ('wage_survey', 'labour');
INSERT INTO api_contributor_partner_fields VALUES (3, 'emissions_estimate'), (4, 'wage_survey'), (4, 'emissions_estimate');
-- The types themselves, and other words for them; one word may stand for several types.
INSERT INTO tile_words (word, facility_type, processing_type) SELECT word, facility_type, processing_type FROM (VALUES
    ('Final Product Assembly', NULL, '{assembly,garment factory}'::text[]), ('Final Product Assembly', 'Sewing', '{stitching,cut and sew}'),
    ('Final Product Assembly', 'Cutting', '{pattern cutting,cut and sew}'), ('Textile or Material Production', NULL, '{textile mill,fabric}'),
    ('Textile or Material Production', 'Weaving', '{loom,woven fabric}'), ('Textile or Material Production', 'Dyeing', '{dye house,colouring}'),
    ('Textile or Material Production', 'Washing', '{laundry,garment wash}'), ('Raw Material Processing or Production', NULL, '{raw material,ginning}')
) AS type (facility_type, processing_type, words), LATERAL unnest(words || lower(coalesce(processing_type, facility_type))) AS word;
INSERT INTO tile_words (word, product_type) VALUES ('trainers', 'shoes'), ('sneakers', 'shoes'), ('bags', 'accessories'), ('tops', 'shirts');
UPDATE api_facility AS f SET created_from_id = i.id FROM (SELECT facility_id, min(id) AS id FROM api_facilitylistitem GROUP BY facility_id) AS i WHERE i.facility_id = f.id;
CREATE INDEX ON api_facilitylistitem (facility_id);
CREATE INDEX ON api_facilitylistitem (source_id);
CREATE INDEX ON api_facilitymatch (facility_id);
CREATE INDEX ON api_facilitymatch (facility_list_item_id);
CREATE INDEX ON api_extendedfield (facility_id);
CREATE INDEX ON api_extendedfield (contributor_id);
CREATE INDEX ON api_extendedfield (field_name);
CREATE INDEX ON api_facilityclaim (facility_id);
ANALYZE;
INSERT INTO api_facilityindex SELECT * FROM index_rows;
CREATE INDEX ON api_facilityindex (uuid);
CREATE INDEX ON api_facilityindex (name);
CREATE INDEX ON api_facilityindex (name varchar_pattern_ops);
CREATE INDEX ON api_facilityindex (address);
CREATE INDEX ON api_facilityindex (address varchar_pattern_ops);
CREATE INDEX ON api_facilityindex (country_code);
CREATE INDEX ON api_facilityindex (country_code varchar_pattern_ops);
CREATE INDEX ON api_facilityindex USING gist (location);
CREATE INDEX ON api_facilityindex USING gin (contrib_types, contributors_id, lists);
CREATE INDEX ON api_facilityindex (updated_at);
DROP TABLE size;
ANALYZE api_facilityindex
