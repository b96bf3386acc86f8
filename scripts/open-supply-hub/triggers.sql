-- Row triggers as the application has them: a change of a facility writes its whole index row, a change of a match, an item, a claim or an extended field some
-- columns of one index row, and a change of a source, a contributor or a list some columns of all index rows that it concerns, in one statement.
CREATE OR REPLACE FUNCTION index_sources_of(ids text[]) RETURNS void LANGUAGE sql AS $$
    UPDATE api_facilityindex AS i SET contributors_count = s.contributors_count, contributors_id = s.contributors_id, contrib_types = s.contrib_types,
        lists = s.lists, sector = s.sector, custom_text = s.custom_text, custom_text_search = s.custom_text_search, contributors = s.contributors,
        facility_list_items = s.facility_list_items, item_sectors = s.item_sectors, updated_at = now()
    FROM index_sources AS s WHERE s.id = i.id AND i.id = ANY (ids) AND s.id = ANY (ids) $$;
DO $$
BEGIN
    EXECUTE (SELECT format('CREATE OR REPLACE FUNCTION index_facilities(ids text[]) RETURNS void LANGUAGE sql AS $sql$
        DELETE FROM api_facilityindex AS i WHERE i.id = ANY (ids) AND NOT EXISTS (SELECT FROM api_facility AS f WHERE f.id = i.id);
        INSERT INTO api_facilityindex SELECT * FROM index_rows WHERE id = ANY (ids) ON CONFLICT (id) DO UPDATE SET (%1$s) = ROW (%2$s) $sql$',
        string_agg(attname, ', ' ORDER BY attnum), string_agg('excluded.' || attname, ', ' ORDER BY attnum))
        FROM pg_attribute WHERE attrelid = 'api_facilityindex'::regclass AND attnum > 0 AND attname <> 'id');
END $$;
CREATE OR REPLACE FUNCTION facility_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM index_facilities(ARRAY[CASE TG_OP WHEN 'DELETE' THEN OLD.id ELSE NEW.id END]);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION match_or_item_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN PERFORM index_sources_of(ARRAY[OLD.facility_id]); END IF;
    IF TG_OP <> 'DELETE' THEN PERFORM index_sources_of(ARRAY[NEW.facility_id]); END IF;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION field_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_facilityindex AS i SET number_of_workers = e.number_of_workers, facility_type = e.facility_type, processing_type = e.processing_type,
        product_type = e.product_type, parent_company_name = e.parent_company_name, parent_company_id = e.parent_company_id,
        native_language_name = e.native_language_name, extended_fields = e.extended_fields, updated_at = now()
    FROM index_fields AS e WHERE e.id = i.id AND i.id = CASE TG_OP WHEN 'DELETE' THEN OLD.facility_id ELSE NEW.facility_id END;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION claim_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_facilityindex AS i SET approved_claim_ids = c.approved_claim_ids, approved_claim = c.approved_claim, claim_info = c.claim_info,
        claim_sectors = c.claim_sectors, updated_at = now()
    FROM index_claims AS c WHERE c.id = i.id AND i.id = CASE TG_OP WHEN 'DELETE' THEN OLD.facility_id ELSE NEW.facility_id END;
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION source_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM index_sources_of(ARRAY(SELECT facility_id FROM api_facilitylistitem WHERE source_id = NEW.id));
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION contributor_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM index_sources_of(ARRAY(SELECT facility_id FROM api_facilitylistitem WHERE source_id IN (SELECT id FROM api_source WHERE contributor_id = NEW.id)));
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION list_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_source SET is_active = NEW.status <> 'REJECTED', updated_at = now() WHERE facility_list_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER to_index AFTER INSERT OR UPDATE OR DELETE ON api_facility FOR EACH ROW EXECUTE FUNCTION facility_changed();
CREATE TRIGGER to_index AFTER INSERT OR UPDATE OR DELETE ON api_facilitymatch FOR EACH ROW EXECUTE FUNCTION match_or_item_changed();
CREATE TRIGGER to_index AFTER INSERT OR UPDATE OR DELETE ON api_facilitylistitem FOR EACH ROW EXECUTE FUNCTION match_or_item_changed();
CREATE TRIGGER to_index AFTER INSERT OR UPDATE OR DELETE ON api_extendedfield FOR EACH ROW EXECUTE FUNCTION field_changed();
CREATE TRIGGER to_index AFTER INSERT OR UPDATE OR DELETE ON api_facilityclaim FOR EACH ROW EXECUTE FUNCTION claim_changed();
CREATE TRIGGER to_index AFTER UPDATE ON api_source FOR EACH ROW EXECUTE FUNCTION source_changed();
CREATE TRIGGER to_index AFTER UPDATE ON api_contributor FOR EACH ROW EXECUTE FUNCTION contributor_changed();
CREATE TRIGGER to_index AFTER UPDATE OF status ON api_facilitylist FOR EACH ROW EXECUTE FUNCTION list_changed();

-- Two facilities are one: the first keeps all, the second is deleted, and its id leads to the first.
CREATE OR REPLACE FUNCTION merge_facilities(kept text, merged text) RETURNS void LANGUAGE sql AS $$
    UPDATE api_facilitymatch SET facility_id = kept WHERE facility_id = merged;
    UPDATE api_facilitylistitem SET facility_id = kept WHERE facility_id = merged;
    UPDATE api_extendedfield SET facility_id = kept WHERE facility_id = merged;
    UPDATE api_facilityclaim SET facility_id = kept WHERE facility_id = merged;
    UPDATE api_facilityalias SET facility_id = kept WHERE facility_id = merged;
    DELETE FROM api_facility WHERE id = merged;
    INSERT INTO api_facilityalias (os_id, facility_id, reason) VALUES (merged, kept, 'MERGE');
    UPDATE api_version SET version = version + 1 WHERE name = 'tile_version' $$
