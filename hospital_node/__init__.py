"""A hospital's node: local policy, private training, masking, and the one outgoing connection."""
