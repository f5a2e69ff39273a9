"""Run records to tables: what was measured, over which runs, and how sure one may be."""
