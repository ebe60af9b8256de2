-- A pod may be given up for more reasons than its deadline: which there are, the program says alone. (A CHECK of a column
-- goes with its column only.)
ALTER TABLE pod ADD COLUMN given_up_because TEXT -- status.reason
    CHECK (given_up_because IS NULL OR given_up_at IS NOT NULL);
UPDATE pod SET given_up_because = given_up_reason;
ALTER TABLE pod DROP COLUMN given_up_reason;
ALTER TABLE pod RENAME COLUMN given_up_because TO given_up_reason;
