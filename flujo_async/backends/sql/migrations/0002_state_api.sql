-- What lists tell of a run besides, and who sent a signal.
ALTER TABLE runs ADD COLUMN pipeline_id TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN is_background INTEGER NOT NULL DEFAULT FALSE;
ALTER TABLE runs ADD COLUMN usage TEXT NOT NULL DEFAULT '{}';      -- JSON
ALTER TABLE signals ADD COLUMN sent_by TEXT;

UPDATE runs SET is_background = TRUE WHERE queue IS NOT NULL;
