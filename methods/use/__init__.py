"""What a person does with a finished model file."""
