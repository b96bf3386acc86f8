-- The table of facilities as the Open Apparel Registry's own application lays it out.
CREATE EXTENSION IF NOT EXISTS postgis;
DROP TABLE IF EXISTS api_facility;
CREATE TABLE api_facility (
    id           varchar(32) PRIMARY KEY,
    name         varchar(200) NOT NULL,
    address      varchar(200) NOT NULL,
    country_code varchar(2) NOT NULL,
    location     geometry(Point, 4326) NOT NULL,
    is_closed    boolean,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
