"""From runs to cells and from cells to the page. Nothing here knows how a model is trained.

`evidence` makes cells from runs and compares cells, once; `tables`, `figures` and `page` render what it found.
"""
