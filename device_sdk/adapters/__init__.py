"""Trainers for those who have another engine: each module needs a package that the SDK does not."""
