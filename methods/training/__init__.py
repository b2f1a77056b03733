"""Training: recipes, objectives, batches, the trainer, optimizers and checkpoints."""
