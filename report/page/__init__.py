"""The page of a preset, one self-contained HTML file, and the entry page that lists the presets."""
