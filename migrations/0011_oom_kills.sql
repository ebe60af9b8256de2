-- That the kernel killed a process of a container for want of memory says nothing of how its first process ended.
ALTER TABLE attempt ADD COLUMN oom_killed INTEGER NOT NULL DEFAULT 0
    CHECK (oom_killed IN (0, 1) AND (oom_killed = 0 OR exit_number IS NOT NULL)); -- 1: such a kill was seen before its end
-- What was told as 137 until now.
UPDATE attempt SET exit_status = 'Signal', exit_number = 9, oom_killed = 1 WHERE exit_status = 'OomKilled';
