"""Federated, alone, in one place: trainings held against each other by whoever may see all images."""
