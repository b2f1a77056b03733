"""Tasks: rows from the hub, a mirror, the generator or a user's files, encoded once into a task file by the task's kind."""
