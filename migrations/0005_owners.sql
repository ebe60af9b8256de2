-- Which objects belong to which: owner references and namespaces, each found without reading every object.

-- metadata.ownerReferences of the objects, one row each.
CREATE TABLE owner (
    uid      TEXT    NOT NULL REFERENCES object (uid) ON DELETE CASCADE, -- the dependant
    owner    TEXT    NOT NULL, -- metadata.uid of what it refers to, which need not exist
    blocking INTEGER NOT NULL CHECK (blocking IN (0, 1)), -- blockOwnerDeletion: a foreground deletion of the owner waits for it
    PRIMARY KEY (uid, owner)
) STRICT, WITHOUT ROWID;
CREATE INDEX owner_of ON owner (owner);

INSERT OR IGNORE INTO owner (uid, owner, blocking)
SELECT object.uid, json_extract(reference.value, '$.uid'), coalesce(json_extract(reference.value, '$.blockOwnerDeletion'), 0)
FROM object,
     json_each(CASE WHEN json_valid(object.desired) THEN object.desired ELSE '{}' END, '$.metadata.ownerReferences') AS reference
WHERE json_extract(reference.value, '$.uid') IS NOT NULL;

-- Everything in a namespace.
CREATE INDEX object_of_namespace ON object (namespace, kind, name);
