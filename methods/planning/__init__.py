"""`python -m methods plan`: how long a configuration's runs take on this device, and the disk and memory that they need.

`rows` says how many rows each task has and how long they are. `rehearsal` measures the `costs` of every kind of run, on
`stand_ins` of rows and by the process's `memory`. `estimate` counts what every run does and multiplies, `page` shows it.
"""
