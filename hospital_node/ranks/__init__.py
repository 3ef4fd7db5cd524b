"""A step's sum computed by several processes, cards or machines of one hospital.

The node writes a job into a folder and has it started: by itself, or by the command that the operator names
(sbatch, kubectl). The job's ranks read images and weights there, and write the sum there. Nothing here knows
torch; the ranks' own side is :mod:`hospital_node.training.rank`.
"""
