-- What the head of a run says after a fact, so that a usual append need not write the row of the run. Facts from before
-- have neither: there the row tells.
ALTER TABLE facts ADD COLUMN at INTEGER;
ALTER TABLE facts ADD COLUMN step_index INTEGER;
