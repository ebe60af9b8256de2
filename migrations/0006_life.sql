-- What happens to an attempt between its start and its end, and the end of a pod that does not come from its containers.

ALTER TABLE attempt ADD COLUMN life TEXT; -- JSON: resources, probe results, hooks, why it is stopped; NULL: nothing of it happened

ALTER TABLE pod ADD COLUMN given_up_at INTEGER; -- ns; when the pod as a whole was given up; NULL when it was not
ALTER TABLE pod ADD COLUMN given_up_reason TEXT -- status.reason
    CHECK (given_up_reason IN ('DeadlineExceeded'))
    CHECK ((given_up_reason IS NOT NULL) = (given_up_at IS NOT NULL));
ALTER TABLE pod ADD COLUMN given_up_message TEXT -- status.message
    CHECK ((given_up_message IS NOT NULL) = (given_up_at IS NOT NULL));
