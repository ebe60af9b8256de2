-- A step can fail for more reasons: all that Kubernetes has words for.
CREATE TABLE failure_new (
    uid       TEXT    NOT NULL REFERENCES pod (uid) ON DELETE CASCADE, -- the pod
    step      TEXT    NOT NULL CHECK (step IN ('Sandbox', 'Container', 'Teardown')), -- what failed
    container TEXT    NOT NULL CHECK ((container <> '') = (step = 'Container')), -- which container; '' for the other steps
    reason    TEXT    NOT NULL CHECK (reason IN (
        'CreatePodSandboxError', 'ConfigPodSandboxError', 'KillPodSandboxError', 'KillContainerError', 'FailedMount',
        'ErrImagePull', 'ErrImageNeverPull', 'InvalidImageName', 'ImageInspectError', 'RegistryUnavailable',
        'SignatureValidationFailed', 'CreateContainerConfigError', 'PreCreateHookError', 'CreateContainerError',
        'PreStartHookError', 'PostStartHookError', 'RunContainerError')), -- in Kubernetes' words
    message   TEXT    NOT NULL, -- what went wrong, for people
    count     INTEGER NOT NULL CHECK (count >= 0), -- how often in a row
    at        INTEGER NOT NULL, -- ns; when it failed last
    PRIMARY KEY (uid, step, container)
) STRICT, WITHOUT ROWID;
INSERT INTO failure_new (uid, step, container, reason, message, count, at)
SELECT uid, step, container, reason, message, count, at FROM failure;
DROP TABLE failure;
ALTER TABLE failure_new RENAME TO failure;
