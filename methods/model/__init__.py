"""The model: an encoder of transformers under a head, its anatomy, the edits that methods make, and its file."""
