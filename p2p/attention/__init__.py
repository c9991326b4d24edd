"""What one attention layer does while an edit is made: no prompts, no steps, no models, tensors alone."""
