-- Fills api_facility with :count generated facilities (psql -v count=100000), the same ones on every machine: all chance
-- comes from hashes of the row number. They cluster around real industrial cities; one in fifty shares its coordinates
-- with the one before it, as geocoded facilities do.
WITH city (city_no, city, country_code, lon, lat, weight) AS (
    -- Longitude and latitude of the city in degrees (WGS 84), rounded; the weight is the share of facilities.
    VALUES
        (1, 'Dhaka', 'BD', 90.41, 23.81, 9), (2, 'Chattogram', 'BD', 91.81, 22.34, 4), (3, 'Gazipur', 'BD', 90.42, 24.00, 5),
        (4, 'Narayanganj', 'BD', 90.50, 23.62, 3), (5, 'Guangzhou', 'CN', 113.26, 23.13, 8), (6, 'Shenzhen', 'CN', 114.06, 22.54, 5),
        (7, 'Dongguan', 'CN', 113.75, 23.02, 6), (8, 'Ningbo', 'CN', 121.55, 29.87, 5), (9, 'Shanghai', 'CN', 121.47, 31.23, 6),
        (10, 'Suzhou', 'CN', 120.58, 31.30, 5), (11, 'Hangzhou', 'CN', 120.16, 30.27, 5), (12, 'Quanzhou', 'CN', 118.68, 24.87, 5),
        (13, 'Qingdao', 'CN', 120.38, 36.07, 4), (14, 'Dalian', 'CN', 121.61, 38.91, 2), (15, 'Nanjing', 'CN', 118.80, 32.06, 3),
        (16, 'Ho Chi Minh City', 'VN', 106.66, 10.76, 7), (17, 'Hanoi', 'VN', 105.85, 21.03, 4), (18, 'Da Nang', 'VN', 108.20, 16.05, 2),
        (19, 'Phnom Penh', 'KH', 104.92, 11.56, 4), (20, 'Yangon', 'MM', 96.16, 16.87, 3), (21, 'Bangkok', 'TH', 100.50, 13.76, 3),
        (22, 'Jakarta', 'ID', 106.85, -6.21, 4), (23, 'Bandung', 'ID', 107.61, -6.91, 3), (24, 'Semarang', 'ID', 110.42, -6.99, 2),
        (25, 'Manila', 'PH', 120.98, 14.60, 2), (26, 'Tiruppur', 'IN', 77.34, 11.11, 6), (27, 'Bengaluru', 'IN', 77.59, 12.97, 4),
        (28, 'Delhi', 'IN', 77.10, 28.70, 7), (29, 'Mumbai', 'IN', 72.88, 19.08, 4), (30, 'Ahmedabad', 'IN', 72.57, 23.02, 4),
        (31, 'Ludhiana', 'IN', 75.86, 30.90, 3), (32, 'Chennai', 'IN', 80.27, 13.08, 3), (33, 'Kolkata', 'IN', 88.36, 22.57, 2),
        (34, 'Karachi', 'PK', 67.01, 24.86, 4), (35, 'Lahore', 'PK', 74.33, 31.55, 4), (36, 'Faisalabad', 'PK', 73.08, 31.42, 4),
        (37, 'Sialkot', 'PK', 74.53, 32.50, 2), (38, 'Colombo', 'LK', 79.86, 6.93, 3), (39, 'Istanbul', 'TR', 28.98, 41.01, 7),
        (40, 'Bursa', 'TR', 29.06, 40.18, 3), (41, 'Izmir', 'TR', 27.14, 38.42, 3), (42, 'Denizli', 'TR', 29.09, 37.77, 2),
        (43, 'Cairo', 'EG', 31.24, 30.04, 2), (44, 'Alexandria', 'EG', 29.92, 31.20, 2), (45, 'Tunis', 'TN', 10.18, 36.81, 1),
        (46, 'Monastir', 'TN', 10.83, 35.78, 2), (47, 'Casablanca', 'MA', -7.59, 33.57, 2), (48, 'Tangier', 'MA', -5.80, 35.78, 2),
        (49, 'Addis Ababa', 'ET', 38.74, 9.03, 1), (50, 'Nairobi', 'KE', 36.82, -1.29, 1), (51, 'Antananarivo', 'MG', 47.52, -18.88, 1),
        (52, 'Port Louis', 'MU', 57.50, -20.16, 1), (53, 'Maseru', 'LS', 27.48, -29.31, 1), (54, 'Cape Town', 'ZA', 18.42, -33.92, 1),
        (55, 'Porto', 'PT', -8.61, 41.15, 4), (56, 'Braga', 'PT', -8.43, 41.55, 3), (57, 'Prato', 'IT', 11.10, 43.88, 3),
        (58, 'Milan', 'IT', 9.19, 45.46, 4), (59, 'Naples', 'IT', 14.27, 40.85, 2), (60, 'Barcelona', 'ES', 2.17, 41.39, 2),
        (61, 'A Coruna', 'ES', -8.41, 43.36, 2), (62, 'Leicester', 'GB', -1.13, 52.64, 2), (63, 'Paris', 'FR', 2.35, 48.86, 1),
        (64, 'Lodz', 'PL', 19.46, 51.76, 2), (65, 'Bucharest', 'RO', 26.10, 44.43, 2), (66, 'Plovdiv', 'BG', 24.75, 42.14, 2),
        (67, 'Thessaloniki', 'GR', 22.94, 40.64, 1), (68, 'Shkoder', 'AL', 19.51, 42.07, 1), (69, 'Minsk', 'BY', 27.56, 53.90, 1),
        (70, 'Los Angeles', 'US', -118.24, 34.05, 3), (71, 'New York', 'US', -74.01, 40.71, 2), (72, 'Charlotte', 'US', -80.84, 35.23, 1),
        (73, 'Puebla', 'MX', -98.21, 19.04, 2), (74, 'Mexico City', 'MX', -99.13, 19.43, 2), (75, 'Guatemala City', 'GT', -90.51, 14.63, 2),
        (76, 'San Pedro Sula', 'HN', -88.03, 15.50, 2), (77, 'San Salvador', 'SV', -89.22, 13.69, 2), (78, 'Managua', 'NI', -86.25, 12.11, 1),
        (79, 'Santiago', 'DO', -70.69, 19.45, 1), (80, 'Port-au-Prince', 'HT', -72.34, 18.59, 1), (81, 'Medellin', 'CO', -75.56, 6.25, 2),
        (82, 'Lima', 'PE', -77.04, -12.05, 2), (83, 'Sao Paulo', 'BR', -46.63, -23.55, 3), (84, 'Blumenau', 'BR', -49.07, -26.92, 2),
        (85, 'Buenos Aires', 'AR', -58.38, -34.60, 1), (86, 'Seoul', 'KR', 126.98, 37.57, 2), (87, 'Daegu', 'KR', 128.60, 35.87, 2),
        (88, 'Osaka', 'JP', 135.50, 34.69, 2), (89, 'Fukui', 'JP', 136.22, 36.06, 1), (90, 'Taipei', 'TW', 121.57, 25.03, 2),
        (91, 'Kuala Lumpur', 'MY', 101.69, 3.14, 1), (92, 'Amman', 'JO', 35.93, 31.95, 1), (93, 'Tashkent', 'UZ', 69.24, 41.30, 1),
        (94, 'Melbourne', 'AU', 144.96, -37.81, 1), (95, 'Auckland', 'NZ', 174.76, -36.85, 1), (96, 'Suva', 'FJ', 178.44, -18.12, 1)
),
ticket AS (
    -- One ticket for each point of weight: drawing a ticket draws a city by its weight.
    SELECT row_number() OVER (ORDER BY city_no, n) - 1 AS ticket_no, city.*
    FROM city, generate_series(1, weight) AS n
),
chance AS (
    -- Six even chances in (0, 1] for each facility; every fiftieth takes the place of the one before it.
    SELECT
        i,
        (hashint8extended(place, 1) & 2147483647) AS draw,
        ((hashint8extended(place, 2) & 2147483647) + 1) / 2147483648.0::float8 AS u2,
        ((hashint8extended(place, 3) & 2147483647) + 1) / 2147483648.0::float8 AS u3,
        ((hashint8extended(place, 4) & 2147483647) + 1) / 2147483648.0::float8 AS u4,
        (hashint8extended(i, 5) & 2147483647) AS u5,
        (hashint8extended(i, 6) & 2147483647) AS u6
    FROM (SELECT i, i - (i % 50 = 0)::int AS place FROM generate_series(1, :count::bigint) AS i) AS row_number
),
facility AS (
    -- Half lie in the city, a third in its suburbs, the rest in the province (Box-Muller, standard deviation in degrees).
    SELECT
        i, city, country_code, u5, u6,
        lon + spread * sqrt(-2 * ln(u3)) * cos(2 * pi() * u4) / cos(radians(lat)) AS lon,
        lat + spread * sqrt(-2 * ln(u3)) * sin(2 * pi() * u4) AS lat
    FROM chance
    JOIN ticket ON ticket_no = draw % (SELECT count(*) FROM ticket)
    CROSS JOIN LATERAL (SELECT CASE WHEN u2 < 0.5 THEN 0.12 WHEN u2 < 0.83 THEN 0.4 ELSE 1.2 END AS spread) AS s
)
INSERT INTO api_facility (id, name, address, country_code, location, is_closed, created_at, updated_at)
SELECT
    country_code || '2019' || to_char(i, 'FM000000000') || upper(substr(md5(i::text), 1, 2)),
    city || ' '
        || (ARRAY['Apparel', 'Textile', 'Knitwear', 'Denim', 'Garments', 'Fashion', 'Spinning', 'Dyeing', 'Footwear', 'Leather'])[1 + u5 % 10]
        || ' ' || (ARRAY['Ltd.', 'Co., Ltd.', 'Pvt. Ltd.', 'S.A.', 'GmbH', 'Sdn. Bhd.', 'Mills', 'Industries'])[1 + u6 % 8]
        || CASE WHEN u6 % 3 = 0 THEN ' Unit ' || 1 + u5 % 9 ELSE '' END,
    1 + u6 % 400 || ' ' || (ARRAY['Industrial Road', 'Export Zone', 'Station Road', 'Factory Lane', 'Park Avenue'])[1 + u5 % 5] || ', ' || city,
    country_code,
    ST_SetSRID(ST_MakePoint(
        round((lon + CASE WHEN lon > 180 THEN -360 WHEN lon < -180 THEN 360 ELSE 0 END)::numeric, 7)::float8,
        round(lat::numeric, 7)::float8), 4326),
    u5 % 40 = 0,
    timestamptz '2019-03-29 00:00:00+00' + i * interval '1 second',
    timestamptz '2019-03-29 00:00:00+00' + i * interval '1 second'
FROM facility
ORDER BY i;

CREATE INDEX api_facility_location ON api_facility USING gist (location);
ANALYZE api_facility;
