"""`make chaos`: break every part of the system under load, then count what was lost and what came
twice.
"""
