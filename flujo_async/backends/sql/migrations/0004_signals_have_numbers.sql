-- Which of the signals of its run each one is, from 1, so that whoever knows the first ones reads only the others.
ALTER TABLE signals ADD COLUMN number INTEGER;
UPDATE signals SET number = numbered.number
FROM (SELECT id, row_number() OVER (PARTITION BY run ORDER BY id) AS number FROM signals) AS numbered
WHERE numbered.id = signals.id;
CREATE UNIQUE INDEX signals_in_order ON signals (run, number);
