"""The tables of the papers, published figures beside ours, and both as files."""
