"""Methods that quantize BERT, and the training core that they share. Importing this package imports no torch."""
