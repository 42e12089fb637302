-- What the database has to which `store.url` leads, before shards: PL/Proxy's ways to the functions of the same names
-- on them (shard/functions.sql). The server `fairdial` has a connection for each slot: p0 to p1023.

CREATE EXTENSION IF NOT EXISTS plproxy;
CREATE SCHEMA IF NOT EXISTS shard;

CREATE OR REPLACE FUNCTION shard.step(
    i_slot INTEGER, i_how TEXT, i_owners TEXT[], i_slots INTEGER[], i_versions BIGINT[],
    i_names TEXT[], i_texts TEXT[], i_given TEXT[], i_rows BOOLEAN[])
RETURNS TEXT LANGUAGE plproxy AS $$ CLUSTER 'fairdial'; RUN ON i_slot; $$;

CREATE OR REPLACE FUNCTION shard.everywhere(
    i_write BOOLEAN, i_names TEXT[], i_texts TEXT[], i_given TEXT[], i_rows BOOLEAN[])
RETURNS SETOF TEXT LANGUAGE plproxy AS $$ CLUSTER 'fairdial'; RUN ON ALL; $$;

CREATE OR REPLACE FUNCTION shard.claim(i_slot INTEGER, i_of TEXT, i_key TEXT, i_owner TEXT, i_instead TEXT)
RETURNS TEXT LANGUAGE plproxy AS $$ CLUSTER 'fairdial'; RUN ON i_slot; $$;

CREATE OR REPLACE FUNCTION shard.unclaim(i_slot INTEGER, i_of TEXT, i_key TEXT, i_owner TEXT)
RETURNS VOID LANGUAGE plproxy AS $$ CLUSTER 'fairdial'; RUN ON i_slot; $$;

CREATE OR REPLACE FUNCTION shard.whose(i_slot INTEGER, i_of TEXT, i_key TEXT)
RETURNS TEXT LANGUAGE plproxy AS $$ CLUSTER 'fairdial'; RUN ON i_slot; $$;

CREATE OR REPLACE FUNCTION shard.here(i_slot INTEGER, i_of TEXT, i_key TEXT)
RETURNS TEXT LANGUAGE plproxy AS $$ CLUSTER 'fairdial'; RUN ON i_slot; $$;

CREATE OR REPLACE FUNCTION shard.schema_version(i_slot INTEGER)
RETURNS BIGINT LANGUAGE plproxy AS $$ CLUSTER 'fairdial'; RUN ON i_slot; $$;

CREATE OR REPLACE FUNCTION shard.take(i_slot INTEGER, i_owner TEXT, i_within_ms INTEGER)
RETURNS VOID LANGUAGE plproxy AS $$ CLUSTER 'fairdial'; RUN ON i_slot; $$;

CREATE OR REPLACE FUNCTION shard.leave(i_slot INTEGER, i_owner TEXT)
RETURNS VOID LANGUAGE plproxy AS $$ CLUSTER 'fairdial'; RUN ON i_slot; $$;
