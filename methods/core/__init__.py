"""The shared training core: data, model, training loop, scores, files and provenance."""
