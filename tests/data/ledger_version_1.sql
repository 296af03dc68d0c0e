CREATE TABLE arrived(
    level TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, seen REAL NOT NULL, resource TEXT,
    PRIMARY KEY(level, instance)) WITHOUT ROWID;
CREATE TABLE given(
    destination TEXT NOT NULL, instance TEXT NOT NULL, seq INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY(instance, destination)) WITHOUT ROWID;
CREATE TABLE heard(level TEXT NOT NULL, resource TEXT NOT NULL, PRIMARY KEY(level, resource)) WITHOUT ROWID;
CREATE TABLE jobs(job TEXT PRIMARY KEY, delivery INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE state(name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE work(
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL,
    attempts INTEGER NOT NULL, next_attempt REAL NOT NULL, error TEXT NOT NULL, job TEXT, data TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, priority INTEGER NOT NULL DEFAULT 0);
CREATE TABLE work_counts(
    queue TEXT NOT NULL, state TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY(queue, state)) WITHOUT ROWID;
CREATE INDEX arrived_by_resource ON arrived(level, resource, seen);
CREATE INDEX jobs_by_delivery ON jobs(delivery);
CREATE INDEX work_by_digest ON work(json_extract(data, '$.Digest'), state);
CREATE INDEX work_by_job ON work(job) WHERE job IS NOT NULL;
CREATE INDEX work_by_next ON work(state, queue, next_attempt);
CREATE INDEX work_by_state ON work(state, queue, id);
CREATE INDEX work_by_subject ON work(subject, queue, state, id);
CREATE INDEX work_finished ON work(updated) WHERE state IN ('done','gone');
CREATE INDEX work_unfinished ON work(created) WHERE state IN ('waiting','sending');
CREATE TRIGGER jobs_go_with_their_row AFTER DELETE ON work BEGIN
    DELETE FROM jobs WHERE delivery=old.id;
END;
CREATE TRIGGER work_added AFTER INSERT ON work BEGIN
    INSERT INTO work_counts VALUES(new.queue, new.state, 1) ON CONFLICT DO UPDATE SET n=n+1;
END;
CREATE TRIGGER work_moved AFTER UPDATE OF queue, state ON work
WHEN new.queue<>old.queue OR new.state<>old.state BEGIN
    UPDATE work_counts SET n=n-1 WHERE queue=old.queue AND state=old.state;
    INSERT INTO work_counts VALUES(new.queue, new.state, 1) ON CONFLICT DO UPDATE SET n=n+1;
END;
CREATE TRIGGER work_removed AFTER DELETE ON work BEGIN
    UPDATE work_counts SET n=n-1 WHERE queue=old.queue AND state=old.state;
END;
PRAGMA user_version=1;
