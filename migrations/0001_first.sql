-- What podd stores. src/store/mod.rs says who writes each table and why.
--
-- Every time is an INTEGER of nanoseconds since 1970-01-01T00:00:00Z, so that it comes back exactly as it went in.
-- Every word of a fixed set is TEXT with a CHECK. JSON is TEXT, read by podd alone.

-- Desired state and status of every object of the API, one row each.
CREATE TABLE object (
    kind             TEXT    NOT NULL, -- 'Pod', 'Namespace', 'ConfigMap' ...
    namespace        TEXT    NOT NULL, -- '' for a kind without namespaces
    name             TEXT    NOT NULL, -- metadata.name
    uid              TEXT    NOT NULL, -- metadata.uid, a UUID, never used twice
    resource_version INTEGER NOT NULL, -- of the newest change of desired or status
    desired          TEXT    NOT NULL, -- JSON: the object without status and without metadata.resourceVersion
    status           TEXT,             -- JSON: the status; NULL until the first one is written
    UNIQUE (kind, namespace, name),
    UNIQUE (uid)
) STRICT;

-- The newest changes of objects, for watches. Old ones are dropped in batches, oldest first.
CREATE TABLE change (
    resource_version INTEGER PRIMARY KEY AUTOINCREMENT, -- THE resource version: global, only ever growing, never used twice
    kind             TEXT    NOT NULL, -- as in object
    namespace        TEXT    NOT NULL, -- as in object
    name             TEXT    NOT NULL, -- as in object
    uid              TEXT    NOT NULL, -- as in object
    type             TEXT    NOT NULL CHECK (type IN ('Added', 'Modified', 'Deleted')), -- the type of the watch event
    origin           TEXT    NOT NULL CHECK (origin IN ('Desired', 'Status')), -- which half was written: by the API, or by the controller
    object           TEXT    NOT NULL, -- JSON: the whole object after the change, as clients get it (Deleted: its last state)
    previous         TEXT,             -- JSON: the whole object before the change; NULL for Added
    bytes            INTEGER NOT NULL CHECK (bytes >= 0) -- length of object and previous together
) STRICT;
-- The changes of one kind, and what the whole table holds, without reading the objects.
CREATE INDEX change_of_kind ON change (kind, resource_version, bytes);
-- Version 0 means "any" to clients, so the first change gets 2 and an empty machine is at version 1.
INSERT INTO sqlite_sequence (name, seq) VALUES ('change', 1);

-- What is no longer in `change`: a watch from before it must be refused.
CREATE TABLE history (
    kind    TEXT    NOT NULL PRIMARY KEY, -- as in object
    dropped INTEGER NOT NULL              -- the newest resource version of this kind that was dropped
) STRICT, WITHOUT ROWID;

-- What was observed of a pod as a whole.
CREATE TABLE pod (
    uid        TEXT    NOT NULL PRIMARY KEY, -- metadata.uid of the pod
    started_at INTEGER,                      -- ns; when the controller first saw it (status.startTime)
    torn_down  INTEGER NOT NULL CHECK (torn_down IN (0, 1)) -- 1: it has ended and nothing of it is left on the machine
) STRICT, WITHOUT ROWID;

-- The newest sandbox of each pod.
CREATE TABLE sandbox (
    uid        TEXT    NOT NULL PRIMARY KEY REFERENCES pod (uid) ON DELETE CASCADE, -- the pod
    attempt    INTEGER NOT NULL CHECK (attempt >= 0), -- 0 for the pod's first sandbox
    state      TEXT    NOT NULL CHECK (state IN ('Creating', 'Ready', 'Dead', 'Stopped')), -- where it is in its life
    ready_at   INTEGER CHECK ((ready_at IS NOT NULL) = (state = 'Ready')), -- ns; when it became Ready
    ended_at   INTEGER CHECK ((ended_at IS NOT NULL) = (state IN ('Dead', 'Stopped'))), -- ns; when its death, or its stop, was seen
    cause      TEXT CHECK (cause IN ('InfraExited', 'ShimLost', 'Rebooted') AND (cause IS NOT NULL) = (state = 'Dead')), -- why it died
    ip         TEXT,             -- the pod's address; NULL on the host's network
    created_at INTEGER NOT NULL, -- ns; when it was asked for
    boot_id    TEXT    NOT NULL  -- the boot of the machine it was made in
) STRICT, WITHOUT ROWID;

-- The newest lives of each container: three at least, and the newest one that has ended.
CREATE TABLE attempt (
    uid               TEXT    NOT NULL REFERENCES pod (uid) ON DELETE CASCADE, -- the pod
    container         TEXT    NOT NULL, -- name of the container in the pod
    attempt           INTEGER NOT NULL CHECK (attempt >= 0), -- 0 for the first; the restart count
    sandbox           INTEGER NOT NULL CHECK (sandbox >= 0), -- attempt of the sandbox it was started in
    image             TEXT    NOT NULL, -- the image's name as the manifest gave it
    image_id          TEXT,             -- sha256:<hex> of the image it meant; NULL while unknown
    state             TEXT    NOT NULL CHECK (state IN ('Starting', 'Running', 'Exited')), -- where it is in its life
    started_at        INTEGER CHECK (state <> 'Starting' OR started_at IS NULL)
                              CHECK (state <> 'Running' OR started_at IS NOT NULL), -- ns; when its process was executed; NULL when it never was
    exit_status       TEXT CHECK (exit_status IN ('Code', 'Signal', 'OomKilled', 'StartError', 'Lost'))
                           CHECK ((exit_status IS NOT NULL) = (state = 'Exited')), -- how it ended
    exit_number       INTEGER CHECK ((exit_number IS NOT NULL) = coalesce(exit_status IN ('Code', 'Signal'), 0)), -- the exit code or the signal
    finished_at       INTEGER CHECK ((finished_at IS NOT NULL) = (state = 'Exited')), -- ns; when it ended
    message           TEXT CHECK ((message IS NOT NULL) = (state = 'Exited')), -- what went wrong (StartError, Lost), else ''
    backoff_delay     INTEGER NOT NULL CHECK (backoff_delay >= 0), -- ns; how long to wait after its end before the next start
    backoff_set_at    INTEGER,          -- ns; when backoff_delay was set
    stop_signalled_at INTEGER,          -- ns; when the stop signal was sent
    killed_at         INTEGER,          -- ns; when SIGKILL was sent
    PRIMARY KEY (uid, container, attempt)
) STRICT, WITHOUT ROWID;

-- Steps of a pod that failed and have not succeeded since.
CREATE TABLE failure (
    uid       TEXT    NOT NULL REFERENCES pod (uid) ON DELETE CASCADE, -- the pod
    step      TEXT    NOT NULL CHECK (step IN ('Sandbox', 'Container', 'Teardown')), -- what failed
    container TEXT    NOT NULL CHECK ((container <> '') = (step = 'Container')), -- which container; '' for the other steps
    reason    TEXT    NOT NULL CHECK (reason IN (
        'CreatePodSandboxError', 'FailedMount', 'ErrImagePull', 'ErrImageNeverPull', 'InvalidImageName',
        'CreateContainerConfigError', 'CreateContainerError', 'RunContainerError', 'KillPodSandboxError')), -- in Kubernetes' words
    message   TEXT    NOT NULL, -- what went wrong, for people
    count     INTEGER NOT NULL CHECK (count >= 0), -- how often in a row
    at        INTEGER NOT NULL, -- ns; when it failed last
    PRIMARY KEY (uid, step, container)
) STRICT, WITHOUT ROWID;

-- The addresses that are taken.
CREATE TABLE address (
    ip  INTEGER NOT NULL PRIMARY KEY CHECK (ip BETWEEN 0 AND 4294967295), -- IPv4 address as a number, so that the next one is ip + 1
    uid TEXT    NOT NULL UNIQUE -- the pod that has it
) STRICT;

-- Images in the content store, each written after every blob and layer of it was durable.
CREATE TABLE image (
    id              TEXT    NOT NULL PRIMARY KEY, -- sha256:<hex> of the config
    manifest_digest TEXT    NOT NULL, -- sha256:<hex> of the manifest
    config          TEXT    NOT NULL, -- the config: JSON, as its maker wrote it
    size            INTEGER NOT NULL CHECK (size >= 0), -- bytes of the unpacked layers
    created_at      INTEGER NOT NULL  -- ns; when it came to this machine
) STRICT;

-- The names of images.
CREATE TABLE image_name (
    name  TEXT NOT NULL PRIMARY KEY, -- normalised: docker.io/library/busybox:latest
    image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE -- the image it means
) STRICT, WITHOUT ROWID;
CREATE INDEX image_name_of_image ON image_name (image);

-- The layers of images.
CREATE TABLE image_layer (
    image    TEXT    NOT NULL REFERENCES image (id) ON DELETE CASCADE, -- the image
    position INTEGER NOT NULL CHECK (position >= 0), -- 0 is the lowest
    diff_id  TEXT    NOT NULL, -- sha256:<hex> of the uncompressed layer
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;

-- Facts of the node itself.
CREATE TABLE setting (
    key   TEXT NOT NULL PRIMARY KEY, -- which one
    value TEXT NOT NULL              -- as its owner wrote it
) STRICT, WITHOUT ROWID;
