"""The one error of training."""


class TrainingError(Exception):
    """Training cannot go on and has no result; the message says why and what to change.

    Data that does not fit the model, no data, or numbers that left the finite range.
    """
