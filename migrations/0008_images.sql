-- What the image store knows of images beyond their content: when each was used, which pods mount them as volumes, and
-- what each unpacked layer looked like when it was verified.

-- When an image was last used by a container, to the hour: garbage collection takes the oldest first.
CREATE TABLE image_use (
    image TEXT    NOT NULL PRIMARY KEY REFERENCES image (id) ON DELETE CASCADE, -- the image
    at    INTEGER NOT NULL -- ns; written at most once an hour
) STRICT, WITHOUT ROWID;

-- The image that a volume of a pod means, from its first mount to the end of the pod.
CREATE TABLE image_volume (
    uid    TEXT NOT NULL REFERENCES pod (uid) ON DELETE CASCADE, -- the pod
    volume TEXT NOT NULL, -- name of the volume in the pod
    image  TEXT NOT NULL, -- sha256:<hex> of the image
    PRIMARY KEY (uid, volume)
) STRICT, WITHOUT ROWID;

-- The seal of each unpacked layer: a digest of its whole tree.
CREATE TABLE layer_seal (
    diff_id TEXT NOT NULL PRIMARY KEY, -- sha256:<hex> of the uncompressed layer
    seal    TEXT NOT NULL              -- sha256:<hex> over paths, kinds, modes, owners, contents and extended attributes
) STRICT, WITHOUT ROWID;
