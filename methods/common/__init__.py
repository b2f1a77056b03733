"""Files, errors, progress, interruption and provenance: shared by all rooms and by the report. Imports no torch."""
