BEGIN TRANSACTION;
CREATE TABLE boxes (
	id INTEGER NOT NULL, 
	kind VARCHAR(8) NOT NULL, 
	identity VARCHAR(253) NOT NULL, 
	CONSTRAINT pk_boxes PRIMARY KEY (id), 
	CONSTRAINT ck_boxes_kind CHECK (kind IN ('moat', 'portal')), 
	CONSTRAINT uq_boxes_identity UNIQUE (identity)
);
INSERT INTO "boxes" VALUES(1,'portal','portal1.example.net');
INSERT INTO "boxes" VALUES(2,'portal','portal2.example.net');
INSERT INTO "boxes" VALUES(3,'moat','m0001.moats.example.net');
INSERT INTO "boxes" VALUES(4,'moat','m0002.moats.example.net');
CREATE TABLE customers (
	id VARCHAR(63) NOT NULL, 
	name TEXT NOT NULL, 
	contact TEXT NOT NULL, 
	site_address TEXT NOT NULL, 
	isp TEXT NOT NULL, 
	status VARCHAR(9) NOT NULL, 
	created DATETIME NOT NULL, 
	changed DATETIME NOT NULL, 
	CONSTRAINT pk_customers PRIMARY KEY (id), 
	CONSTRAINT ck_customers_status CHECK (status IN ('ordered', 'shipped', 'active', 'suspended', 'revoked'))
);
INSERT INTO "customers" VALUES('c0001','Customer 1','','','Example Cable','active','2026-05-01 12:00:00.000000','2026-05-01 12:00:00.000000');
INSERT INTO "customers" VALUES('c0002','Customer 2','','','Example Cable','ordered','2026-05-01 12:00:00.000000','2026-05-01 12:00:00.000000');
CREATE TABLE fleet_schema (
	version INTEGER NOT NULL, 
	CONSTRAINT pk_fleet_schema PRIMARY KEY (version)
);
INSERT INTO "fleet_schema" VALUES(1);
CREATE TABLE moats (
	id INTEGER NOT NULL, 
	customer_id VARCHAR(63) NOT NULL, 
	portal_id INTEGER NOT NULL, 
	backup_portal_id INTEGER, 
	serial VARCHAR(64), 
	wild_mac VARCHAR(17), 
	private_mac VARCHAR(17), 
	wild_interface VARCHAR(15) NOT NULL, 
	private_interface VARCHAR(15) NOT NULL, 
	wild_mode VARCHAR(6) NOT NULL, 
	wild_address VARCHAR(43), 
	wild_gateway VARCHAR(39), 
	private_subnet VARCHAR(43) NOT NULL, 
	private_subnet6 VARCHAR(43) NOT NULL, 
	kidnet BOOLEAN NOT NULL, 
	kidnet_subnet VARCHAR(43), 
	policy VARCHAR(63) NOT NULL, 
	CONSTRAINT pk_moats PRIMARY KEY (id), 
	CONSTRAINT ck_moats_wild_mode CHECK (wild_mode IN ('dhcp', 'static')), 
	CONSTRAINT ck_moats_wild_static CHECK ((wild_mode = 'static') = (wild_address IS NOT NULL) AND (wild_address IS NULL) = (wild_gateway IS NULL)), 
	CONSTRAINT ck_moats_kidnet CHECK (kidnet_subnet IS NOT NULL OR NOT kidnet), 
	CONSTRAINT ck_moats_interfaces CHECK (wild_interface <> private_interface), 
	CONSTRAINT ck_moats_backup_portal CHECK (backup_portal_id <> portal_id), 
	CONSTRAINT fk_moats_id FOREIGN KEY(id) REFERENCES boxes (id), 
	CONSTRAINT uq_moats_customer_id UNIQUE (customer_id), 
	CONSTRAINT fk_moats_customer_id FOREIGN KEY(customer_id) REFERENCES customers (id), 
	CONSTRAINT fk_moats_portal_id FOREIGN KEY(portal_id) REFERENCES portals (id), 
	CONSTRAINT fk_moats_backup_portal_id FOREIGN KEY(backup_portal_id) REFERENCES portals (id), 
	CONSTRAINT uq_moats_serial UNIQUE (serial), 
	CONSTRAINT uq_moats_wild_mac UNIQUE (wild_mac), 
	CONSTRAINT uq_moats_private_mac UNIQUE (private_mac), 
	CONSTRAINT uq_moats_private_subnet UNIQUE (private_subnet), 
	CONSTRAINT uq_moats_private_subnet6 UNIQUE (private_subnet6)
);
INSERT INTO "moats" VALUES(3,'c0001',1,NULL,'SN-1','02:00:00:00:00:01',NULL,'wild0','private0','dhcp',NULL,NULL,'10.201.1.0/24','fd00:201:0:1::/64',0,NULL,'default');
INSERT INTO "moats" VALUES(4,'c0002',2,1,NULL,NULL,NULL,'wild0','private0','dhcp',NULL,NULL,'10.202.1.0/24','fd00:202:0:1::/64',1,'192.168.77.0/24','default');
CREATE TABLE portals (
	id INTEGER NOT NULL, 
	wild_interface VARCHAR(15) NOT NULL, 
	wild_address VARCHAR(43) NOT NULL, 
	wild_gateway VARCHAR(39) NOT NULL, 
	corporate_interface VARCHAR(15) NOT NULL, 
	corporate_address VARCHAR(43) NOT NULL, 
	corporate_address6 VARCHAR(43) NOT NULL, 
	corporate_gateway VARCHAR(39) NOT NULL, 
	corporate_gateway6 VARCHAR(39) NOT NULL, 
	pool VARCHAR(43) NOT NULL, 
	pool6 VARCHAR(43) NOT NULL, 
	tunnel_address VARCHAR(43) NOT NULL, 
	tunnel_address6 VARCHAR(43) NOT NULL, 
	private_prefix INTEGER NOT NULL, 
	created DATETIME NOT NULL, 
	changed DATETIME NOT NULL, 
	CONSTRAINT pk_portals PRIMARY KEY (id), 
	CONSTRAINT fk_portals_id FOREIGN KEY(id) REFERENCES boxes (id), 
	CONSTRAINT uq_portals_wild_address UNIQUE (wild_address), 
	CONSTRAINT uq_portals_pool UNIQUE (pool), 
	CONSTRAINT uq_portals_pool6 UNIQUE (pool6), 
	CONSTRAINT uq_portals_tunnel_address UNIQUE (tunnel_address), 
	CONSTRAINT uq_portals_tunnel_address6 UNIQUE (tunnel_address6)
);
INSERT INTO "portals" VALUES(1,'wild0','198.51.100.2/24','198.51.100.1','corp0','10.50.0.1/24','fd00:50::1/64','10.50.0.10','fd00:50::10','10.201.0.0/16','fd00:201::/32','10.201.0.1/32','fd00:201::1/128',24,'2026-05-01 12:00:00.000000','2026-05-01 12:00:00.000000');
INSERT INTO "portals" VALUES(2,'wild0','198.51.100.3/24','198.51.100.1','corp0','10.50.0.2/24','fd00:50::2/64','10.50.0.10','fd00:50::10','10.202.0.0/16','fd00:202::/32','10.202.0.1/32','fd00:202::1/128',24,'2026-05-01 12:00:00.000000','2026-05-01 12:00:00.000000');
CREATE TABLE public_keys (
	id INTEGER NOT NULL, 
	box_id INTEGER NOT NULL, 
	"key" VARCHAR(60) NOT NULL, 
	not_before DATETIME NOT NULL, 
	not_after DATETIME, 
	CONSTRAINT pk_public_keys PRIMARY KEY (id), 
	CONSTRAINT ck_public_keys_validity CHECK (not_after >= not_before), 
	CONSTRAINT fk_public_keys_box_id FOREIGN KEY(box_id) REFERENCES boxes (id), 
	CONSTRAINT uq_public_keys_key UNIQUE ("key")
);
INSERT INTO "public_keys" VALUES(1,3,'MCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=','2026-05-01 12:00:00.000000',NULL);
INSERT INTO "public_keys" VALUES(2,1,'MCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=','2026-05-01 12:00:00.000000',NULL);
CREATE INDEX ix_customers_status ON customers (status);
CREATE INDEX ix_public_keys_box_id ON public_keys (box_id);
CREATE INDEX ix_moats_portal_id ON moats (portal_id);
COMMIT;
