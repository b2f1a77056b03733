"""Making a task's data: rows from the hub, a mirror or the generator, tokenised once into a task file."""
