"""From runs to cells and from cells to the page. Nothing here knows how a model is trained."""
