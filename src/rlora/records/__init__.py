"""Run records: their schema, the status of run folders, studies, and facts about the machine."""
