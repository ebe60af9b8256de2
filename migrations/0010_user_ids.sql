-- Which pod's user namespace has which ids: its 65,536 begin at `first`.
CREATE TABLE user_ids (
    first INTEGER NOT NULL PRIMARY KEY CHECK (first BETWEEN 65536 AND 4294901760 AND first % 65536 = 0),
    uid TEXT NOT NULL UNIQUE
) STRICT;
