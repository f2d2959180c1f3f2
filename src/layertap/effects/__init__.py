"""What values do to the answer of a model: interventions, gradients, attributions."""
