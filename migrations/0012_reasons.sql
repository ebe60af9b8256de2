-- More reasons for which a pod as a whole is given up: it was evicted, or turned away before anything of it was begun.

ALTER TABLE pod ADD COLUMN given_up_why TEXT -- status.reason; NULL when it was not given up
    CHECK (given_up_why IN (
        'DeadlineExceeded', 'Evicted', 'OutOfcpu', 'OutOfmemory', 'OutOfephemeral-storage', 'OutOfpods', 'OutOfhugepages',
        'NodePorts', 'SysctlForbidden', 'AppArmor', 'UnexpectedAdmissionError'));
UPDATE pod SET given_up_why = given_up_reason;
ALTER TABLE pod DROP COLUMN given_up_reason;
ALTER TABLE pod RENAME COLUMN given_up_why TO given_up_reason;
