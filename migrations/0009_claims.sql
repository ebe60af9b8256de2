-- What each pod takes of the machine, from before its first sandbox to its end.

CREATE TABLE claim (
    uid       TEXT    NOT NULL PRIMARY KEY, -- the pod
    cpu_milli INTEGER NOT NULL CHECK (cpu_milli >= 0), -- thousandths of a core
    memory    INTEGER NOT NULL CHECK (memory >= 0),    -- bytes
    storage   INTEGER NOT NULL CHECK (storage >= 0)    -- bytes of ephemeral storage
) STRICT, WITHOUT ROWID;

-- Huge pages, of those pods that ask for some.
CREATE TABLE claim_hugepages (
    uid       TEXT    NOT NULL REFERENCES claim (uid) ON DELETE CASCADE, -- the pod
    page_size INTEGER NOT NULL CHECK (page_size > 0), -- bytes of one page
    bytes     INTEGER NOT NULL CHECK (bytes >= 0),    -- bytes of all of them
    PRIMARY KEY (uid, page_size)
) STRICT, WITHOUT ROWID;

-- Ports of the machine.
CREATE TABLE claim_port (
    uid      TEXT    NOT NULL REFERENCES claim (uid) ON DELETE CASCADE, -- the pod
    protocol TEXT    NOT NULL CHECK (protocol IN ('TCP', 'UDP', 'SCTP')), -- as on the wire
    port     INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535), -- hostPort
    ip       TEXT    NOT NULL, -- hostIP; '' for every address of the machine
    PRIMARY KEY (uid, protocol, port, ip)
) STRICT, WITHOUT ROWID;
CREATE INDEX claim_port_taken ON claim_port (port, protocol);

-- A pod can be given up for more reasons: all that the model has words for. (A CHECK cannot be changed where it stands.)
ALTER TABLE pod ADD COLUMN given_up_why TEXT -- status.reason
    CHECK (given_up_why IS NULL OR given_up_at IS NOT NULL);
UPDATE pod SET given_up_why = given_up_reason;
ALTER TABLE pod DROP COLUMN given_up_reason;
ALTER TABLE pod RENAME COLUMN given_up_why TO given_up_reason;

-- A resize can be put off.
CREATE TABLE failure_new (
    uid       TEXT    NOT NULL REFERENCES pod (uid) ON DELETE CASCADE, -- the pod
    step      TEXT    NOT NULL CHECK (step IN ('Sandbox', 'Container', 'Teardown', 'Resize')), -- what failed
    container TEXT    NOT NULL CHECK ((container <> '') = (step = 'Container')), -- which container; '' for the other steps
    reason    TEXT    NOT NULL, -- in Kubernetes' words
    message   TEXT    NOT NULL, -- what went wrong, for people
    count     INTEGER NOT NULL CHECK (count >= 0), -- how often in a row
    at        INTEGER NOT NULL, -- ns; when it failed last
    PRIMARY KEY (uid, step, container)
) STRICT, WITHOUT ROWID;
INSERT INTO failure_new (uid, step, container, reason, message, count, at)
SELECT uid, step, container, reason, message, count, at FROM failure;
DROP TABLE failure;
ALTER TABLE failure_new RENAME TO failure;
