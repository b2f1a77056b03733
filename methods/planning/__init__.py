"""`python -m methods plan`: how long a configuration's runs take on this device, and the disk and memory that they need.

`rows` says how many rows each task has and how long they are, `rehearsal` measures a step of every kind of run, `estimate`
counts what every run does and multiplies, `page` shows it.
"""
